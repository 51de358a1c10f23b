"""Monitors that are killed while requests end: each request is counted, and once.

What the engine says is said by the real reporter over the real socket; only the scheduler and the
worker are not there.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_engine import FakeEngine
from running_monitor import QUIET, Monitor, running_monitor, start_process, wait_for

pytest.importorskip("vllm")

from vllm.sampling_params import SamplingParams
from vllm.v1.request import Request, RequestStatus

from saeguard.integrations.vllm.outbox import DirectOutbox
from saeguard.integrations.vllm.request_reporter import RequestReporter

NUM_KILLS = int(os.environ.get("SAEGUARD_TEST_KILLS", "2"))


class Engine:
    """Requests of two tokens that end in the step after."""

    def __init__(self, run_dir: Path, worker: FakeEngine) -> None:
        self.num_ended = 0
        self._worker = worker
        self._outbox = DirectOutbox(f"ipc://{run_dir / 'inbox'}")
        self._requests: dict[str, Request] = {}
        self._reporter = RequestReporter(
            self._requests, "m", None, 0, self._outbox, self._outbox.connection
        )

    def serve_one(self) -> None:
        req_id = f"r{self.num_ended}"
        request = Request(req_id, [1, 2], SamplingParams(), None, arrival_time=time.time())
        self._requests[req_id] = request
        self._step(req_id)
        self._worker.step({req_id: (0, [QUIET, QUIET])})
        request.status = RequestStatus.FINISHED_STOPPED
        self._reporter.ended(self._requests.pop(req_id))
        self.num_ended += 1

    def _step(self, req_id: str) -> None:
        self._reporter.scheduled(
            SimpleNamespace(
                scheduled_new_reqs=[SimpleNamespace(req_id=req_id, num_computed_tokens=0)],
                scheduled_cached_reqs=SimpleNamespace(resumed_req_ids=()),
                num_scheduled_tokens={req_id: 2},
            )
        )

    def close(self) -> None:
        self._outbox.close()


def revive(monitor: Monitor) -> None:
    monitor.process.kill()
    monitor.process.wait()
    run_dir = monitor.directory / "run"
    (run_dir / "ready").unlink()
    monitor.process = start_process(
        monitor.directory / "saeguard.yaml", run_dir, subprocess.DEVNULL
    )


def test_every_request_is_counted_once_whenever_monitors_are_killed(tmp_path: Path):
    rng = random.Random(1)
    with running_monitor(tmp_path, subprocess.DEVNULL) as monitor:
        ready = tmp_path / "run" / "ready"
        engine = Engine(tmp_path / "run", monitor.engine)
        for _ in range(NUM_KILLS):
            kill_s = time.monotonic() + rng.uniform(0.2, 0.8)
            while time.monotonic() < kill_s:
                engine.serve_one()
                time.sleep(0.03)
            revive(monitor)
            while not ready.exists():
                engine.serve_one()
                time.sleep(0.03)
        engine.serve_one()
        wait_for(lambda: monitor.total("requests/finished") == engine.num_ended, 60)
        time.sleep(1)
        assert monitor.total("requests/finished") == engine.num_ended, "and no more"
        assert monitor.total("tokens/scheduled") == 2 * engine.num_ended
        engine.close()
    print(f"{engine.num_ended} requests in {NUM_KILLS + 1} lives")
