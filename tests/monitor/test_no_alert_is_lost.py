"""Alerts in a burst, collectors that fail in every way, and monitors that are killed: every alert
that was accepted arrives, once by its id.

`make test-delivery` runs it at full length: 20,000 alerts, an outage of 60 s, 50 kills.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from records import make_alert
from running_monitor import Monitor, running_monitor, start_process, wait_for

from saeguard.integrations.otel import OtlpDestination, OtlpReceiver
from saeguard.monitor.delivery import Sender
from saeguard.monitor.spool import select, status
from saeguard.monitor.store import Store

OUTAGE_S = float(os.environ.get("SAEGUARD_TEST_OUTAGE_S", "5"))
NUM_KILLS = int(os.environ.get("SAEGUARD_TEST_KILLS", "4"))
BURST = int(os.environ.get("SAEGUARD_TEST_BURST", "4000"))


def test_a_burst_survives_an_outage_slowness_and_partial_refusals(tmp_path: Path):
    """The collector is away, then slow, then refuses a few alerts, then takes everything."""
    alerts = [make_alert() for _ in range(BURST)]
    poison = {alerts[i].id for i in (0, BURST // 3, BURST - 1)}
    with OtlpReceiver() as receiver, Store(tmp_path / "alerts.sqlite") as store:
        receiver.fail_with(503)
        sender = Sender(store, OtlpDestination(receiver.endpoint), max_delay_s=2.0)
        began_s = time.monotonic()
        for alert in alerts:
            store.add_alert(alert)
        assert store.flush(60)
        accepted_s = time.monotonic() - began_s
        assert sum(1 for _ in select(store.path)) == BURST
        time.sleep(max(0.0, OUTAGE_S - accepted_s))
        receiver.delay_s = 0.2
        receiver.reject(poison)
        receiver.fail_with(200)
        time.sleep(2)
        receiver.delay_s = 0.0
        assert sender.drain(120)
        (found,) = status(store.path).destinations
    assert found.num_pending == 0
    assert found.num_quarantined == len(poison)
    wanted = {alert.id for alert in alerts} - poison
    assert set(receiver.alert_ids()) == wanted
    print(f"accepted {BURST} alerts in {accepted_s:.1f} s, all in {time.monotonic() - began_s:.1f}")


@contextmanager
def load(monitor: Monitor) -> Iterator[None]:
    """Requests that lie, as fast as a monitor takes them, from a thread."""
    stop = threading.Event()

    def run() -> None:
        number = 0
        while not stop.is_set():
            monitor.lie_once(f"req-{number}")
            number += 1
            time.sleep(0.001)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_monitors_that_are_killed_lose_nothing_that_they_had_accepted(tmp_path: Path):
    rng = random.Random(1)
    with running_monitor(tmp_path, subprocess.DEVNULL) as monitor:
        config, run_dir = tmp_path / "saeguard.yaml", tmp_path / "run"
        with load(monitor):
            for _ in range(NUM_KILLS):
                time.sleep(rng.uniform(0.02, 0.6))
                monitor.process.kill()
                monitor.process.wait()
                (run_dir / "ready").unlink()
                monitor.process = start_process(config, run_dir, subprocess.DEVNULL)
                wait_for((run_dir / "ready").exists, 30)
            time.sleep(0.5)
        monitor.process.terminate()
        monitor.process.wait(60)
        # What it had no time to deliver waits for the next one.
        monitor.process = start_process(config, run_dir, subprocess.DEVNULL)
        wait_for(lambda: status(monitor.store).destinations[0].num_pending == 0, 60)
        accepted = [alert.id for _, alert in select(monitor.store)]
        arrived = monitor.receiver.alert_ids()
    assert len(accepted) == len(set(accepted)) > 10 * NUM_KILLS
    assert set(arrived) == set(accepted)
    print(f"{len(accepted)} accepted in {NUM_KILLS} lives, {len(arrived) - len(accepted)} twice")
