"""A running monitor takes up another watchlist, together with workers that can use it or cannot."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from fake_engine import RULES, write_rules
from reloading import in_force, refusals, replace, sha256
from running_monitor import LIE, QUIET, Monitor, running_monitor, wait_for

from saeguard.monitor.messages import SwapStatus, TapStatus, decode_control
from saeguard.monitor.store import get_request
from saeguard.monitor.watchlist import load

ANGER = RULES.replace("name: calm", "name: anger").replace("calm", "anger")
ANGER = ANGER.replace("lie and not anger", "lie and anger")


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    with running_monitor(tmp_path) as monitor:
        yield monitor


class FakeWorker(threading.Thread):
    """Answers like a worker that can use any watchlist, or like one that can use none."""

    def __init__(self, monitor: Monitor, refusal: str = "") -> None:
        super().__init__(daemon=True)
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.connect(f"ipc://{monitor.directory / 'run' / 'control'}")
        self._engine = monitor.engine
        self.refusal = refusal
        self.watchlist = ""
        self.start()

    def run(self) -> None:
        while True:
            swap = decode_control(self._socket.recv())
            state = "refused" if self.refusal else "done" if swap.go else "ready"
            if state == "done":
                self.watchlist = swap.watchlist
            self._engine.send(SwapStatus(0, 1, swap.watchlist, state, self.refusal))


def recompile(refusal: str) -> None:
    """Run the command that a refusal asks for, as somebody who pastes it would."""
    command = refusal.partition("(run: ")[2].rpartition(")")[0]
    saeguard, *arguments = shlex.split(command)
    assert saeguard == "saeguard"
    subprocess.run(
        [sys.executable, "-P", "-c", "from saeguard.monitor.cli import main; main()", *arguments],
        check=True,
        cwd="/",
        capture_output=True,
    )


@pytest.fixture
def with_anger(monitor: Monitor) -> Monitor:
    """The rules have come to need a feature that the watchlist lacks."""
    write_rules(monitor.directory, names=("deceit", "calm", "anger"))
    replace(monitor.directory / "rules.yaml", ANGER)
    wait_for(lambda: len(refusals(monitor)) == 1)
    assert "it lacks anger" in refusals(monitor)[0]
    return monitor


def test_the_command_that_a_refusal_asks_for_brings_the_new_rules_into_force(with_anger: Monitor):
    monitor = with_anger
    worker = FakeWorker(monitor)
    monitor.engine.start("a-1", [1, 2])
    monitor.engine.step({"a-1": (0, [QUIET, QUIET, LIE])})  # a lie: what is known stays known
    wait_for(lambda: len(monitor.alerts(kind="match")) == 1)
    monitor.engine.start("b-1", [1, 2])
    monitor.engine.step({"b-1": (0, [QUIET, QUIET])})
    recompile(refusals(monitor)[-1])
    wait_for(lambda: in_force(monitor, ANGER))
    fresh = load(monitor.directory / "watch.safetensors")
    assert worker.watchlist == fresh.digest
    monitor.engine.step({"b-1": (2, [QUIET])})  # was on its way: of the watchlist before
    monitor.engine.take(fresh.digest, fresh.columns)
    monitor.engine.step({"b-1": (3, [[5.0, 0.0, 2.0]])})
    monitor.engine.end("b-1", num_scheduled=4)
    wait_for(lambda: monitor.total("requests/finished") == 1)
    (alert,) = monitor.alerts(req_id="b-1")
    assert (alert.watchlist, alert.position) == (fresh.digest, 3)
    record = get_request(monitor.store, "b-1")
    assert record is not None
    assert record.coverage.complete
    assert record.features == list(fresh.columns)


def test_a_watchlist_that_the_workers_refuse_changes_nothing(with_anger: Monitor):
    monitor = with_anger
    FakeWorker(monitor, refusal="3 features, but room for 2")
    recompile(refusals(monitor)[-1])
    wait_for(lambda: "worker 0: 3 features, but room for 2" in refusals(monitor)[-1])
    monitor.lie_once("a-1")
    wait_for(lambda: len(monitor.alerts(kind="match")) == 1)
    assert monitor.alerts(kind="match")[0].ruleset_sha256 == sha256(RULES)


def test_a_watchlist_that_was_refused_is_offered_again_when_its_file_is_written_again(
    with_anger: Monitor,
):
    refusal = refusals(with_anger)[-1]
    worker = FakeWorker(with_anger, refusal="the device has no memory left")
    recompile(refusal)
    wait_for(lambda: "no memory left" in refusals(with_anger)[-1])
    worker.refusal = ""
    recompile(refusal)  # to the same contents
    wait_for(lambda: in_force(with_anger, ANGER))
    assert "rules_unchanged" not in with_anger.stop()


def test_a_monitor_whose_watchlist_the_server_refuses_from_the_start_says_that_it_is_blind(
    monitor: Monitor,
):
    """It was restarted while the workers watched with another one, say."""
    worker = FakeWorker(monitor, refusal="3 features, but room for 2")
    wait_for(lambda: len(monitor.alerts(rule_name="saeguard.blind")) == 1)
    monitor.engine.step({"a-1": (0, [QUIET])})
    wait_for(lambda: monitor.metric("saeguard.taps.alive") == 0)
    (alert,) = monitor.alerts()
    assert "watch.safetensors, and refuses this one: worker 0: 3 features" in alert.message
    assert "restart the server, or put the watchlist back" in alert.message
    worker.refusal = ""
    monitor.engine.send(TapStatus(rank=0, alive=True))  # the server was restarted
    wait_for(lambda: monitor.metric("saeguard.taps.alive") == 1)
    log = monitor.stop()
    assert '"event": "blind"' in log
    assert '"event": "no_longer_blind"' in log


def test_a_feature_that_has_become_another_one_is_not_taken_for_the_old(monitor: Monitor):
    replace(monitor.directory / "rules.yaml", RULES.replace("probe.safetensors", "p2.safetensors"))
    wait_for(lambda: len(refusals(monitor)) == 1)
    assert "its deceit is of the probe probe.safetensors" in refusals(monitor)[0]
