"""A real monitor process in a directory of its own, and what a test does with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from fake_engine import FakeEngine, write_rules

from saeguard.integrations.otel import OtlpReceiver
from saeguard.monitor.alerts import Alert
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.store import list_alerts, totals
from saeguard.monitor.watchlist import load, save
from saeguard.rules import load_rules

QUIET, LIE = [0.0, 0.0], [5.0, 0.0]


@dataclass
class Monitor:
    directory: Path
    process: subprocess.Popen[str]
    """The one that runs, and is ended at the end."""
    engine: FakeEngine
    receiver: OtlpReceiver

    @property
    def store(self) -> Path:
        return self.directory / "alerts.sqlite"

    def alerts(self, **fields: object) -> list[Alert]:
        """Those in the store with these values, the oldest first."""
        alerts = list_alerts(self.store, limit=10_000)[::-1]
        return [a for a in alerts if all(getattr(a, k) == v for k, v in fields.items())]

    def total(self, key: str) -> int:
        return totals(self.store).get(key, 0)

    def metric(self, name: str, **attributes: object) -> float | None:
        """Its newest value."""
        values = [
            metric.value
            for metric in self.receiver.metrics
            if metric.name == name and metric.attributes == attributes
        ]
        return values[-1] if values else None

    def lie_once(self, req_id: str, **fields: object) -> None:
        """A request of two prompt tokens whose first answer token lies."""
        self.engine.start(req_id, [1, 2], **fields)
        self.engine.step({req_id: (0, [QUIET, QUIET])})
        self.engine.step({req_id: (2, [LIE])})
        self.engine.end(req_id, num_scheduled=3)

    def stop(self) -> str:
        """End it as the plugin does; its stderr."""
        self.engine.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=20)[1]


def wait_for(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def is_monitor(process: psutil.Process) -> bool:
    """Whether it takes vLLM's messages: not one that only stands by."""
    try:
        sockets = process.net_connections("unix")
    except psutil.Error:  # it has just ended
        return False
    return any(str(socket.laddr).endswith("/inbox") for socket in sockets)


def write_config(directory: Path, **values: object) -> Path:
    """A configuration with rules, and a watchlist for them, in `directory`."""
    rules = write_rules(directory)
    save(compile_watchlist(load_rules([rules])), directory / "watch.safetensors")
    config = {
        "version": 1,
        "rules": ["rules.yaml"],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "log": "json",
        **values,
    }
    path = directory / "saeguard.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@contextmanager
def running_monitor(
    directory: Path, stderr: int = subprocess.PIPE, **config: object
) -> Iterator[Monitor]:
    """A monitor that listens, with a receiver for its alerts and metrics."""
    run_dir = directory / "run"
    run_dir.mkdir(mode=0o700)
    with OtlpReceiver() as receiver:
        defaults = {
            "destinations": [{"kind": "otlp", "endpoint": receiver.endpoint}],
            "metrics": {"endpoint": receiver.endpoint, "interval_s": 0.2},
        }
        path = write_config(directory, **(defaults | config))
        watchlist = load(directory / "watch.safetensors")
        engine = FakeEngine(f"ipc://{run_dir / 'inbox'}", watchlist.digest, watchlist.columns)
        process = start_process(path, run_dir, stderr)
        monitor = Monitor(directory, process, engine, receiver)
        try:
            wait_for(lambda: (run_dir / "ready").exists() or process.poll() is not None, 30)
            if process.poll() is not None:
                raise RuntimeError(process.stderr.read())
            yield monitor
        finally:
            monitor.process.kill()  # the test may have put another in the place of the first
            monitor.process.communicate()


def start_process(
    config: Path, run_dir: Path, stderr: int = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "saeguard.monitor", "--config", config, "--run-dir", run_dir],
        stdout=subprocess.DEVNULL, stderr=stderr, text=True, env={**os.environ},
    )  # fmt: skip
