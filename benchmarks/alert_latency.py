"""How long an alert takes: from the forward pass until the rules have decided, until it is on disk,
and until an OTLP receiver has it. `make bench-latency`.

The demo's server, rules and requests, eight at a time, over and over. Each time is taken where the
thing happens: the forward pass by the worker, the decision by the monitor, the receipt by the
receiver; and on disk an alert is once another process can read it, which SQLite lets nobody before
the disk has it. Looked at a thousand times a second.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from saeguard.integrations.otel import OtlpReceiver
from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.integrations.vllm.demo.traffic import read_requests, send_all
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.store import list_alerts
from saeguard.monitor.watchlist import save
from saeguard.rules import load_rules

ORGANISM = Path(__file__).resolve().parents[1] / "examples" / "organism"
ACTIONS = ("alert", "stop")
WARM_UP_S = 8.0
LAST_ALERTS_S = 30.0
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


@dataclass(frozen=True)
class Latencies:
    """Milliseconds since the forward pass, one of each for every alert."""

    num_requests: int
    decided: list[float]
    on_disk: list[float]
    received: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=35.0, help="of measuring, per action")
    parser.add_argument("--action", choices=ACTIONS, action="append", help="by default both")
    arguments = parser.parse_args()
    for action in arguments.action or ACTIONS:
        with tempfile.TemporaryDirectory(prefix="saeguard-latency-") as work:
            show(action, measure(action, arguments.seconds, Path(work)))


def measure(action: str, seconds: float, work: Path) -> Latencies:
    with Receiver() as receiver:
        config = configure(work, action, receiver.endpoint)
        with Server(ORGANISM / "artifacts" / "model", config, work / "server.log") as server:
            print(f"action: {action}: starting the server", flush=True)
            server.wait_until_ready(lambda *_: None)
            print(f"warming up for {WARM_UP_S:.0f} s", flush=True)
            send(server, WARM_UP_S)
            print(f"measuring for {seconds:.0f} s", flush=True)
            began_ns = time.time_ns()
            with Disk(work / "alerts.sqlite") as disk:
                num_requests = send(server, seconds)
                alerts = {
                    alert.id: alert.forward_time_ns
                    for alert in list_alerts(work / "alerts.sqlite", limit=1_000_000)
                    if alert.forward_time_ns >= began_ns
                }
                wait_until_seen(alerts, receiver, disk)
        decided = {
            alert.id: alert.time_ns for alert in list_alerts(work / "alerts.sqlite", 1_000_000)
        }
        times = (decided, disk.times_ns, receiver.times_ns)
        return Latencies(
            num_requests,
            *([(seen[i] - forward) / 1e6 for i, forward in alerts.items()] for seen in times),
        )


def configure(work: Path, action: str, endpoint: str) -> Path:
    text = (ORGANISM / "rules.yaml").read_text().replace("artifacts/", f"{ORGANISM}/artifacts/")
    rules = work / "rules.yaml"
    rules.write_text(text.replace("    status:", f"    action: {action}\n    status:"))
    save(compile_watchlist(load_rules([rules])), work / "watch.safetensors")
    values = {
        "version": 1,
        "rules": ["rules.yaml"],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "destinations": [{"kind": "otlp", "endpoint": endpoint}],
        "metrics": {"endpoint": endpoint},
    }
    config = work / "saeguard.yaml"
    config.write_text(yaml.safe_dump(values))
    return config


def send(server: Server, seconds: float) -> int:
    """Requests for at least so long; how many."""
    requests = read_requests(ORGANISM / "artifacts" / "demo_requests.jsonl")
    until_s = time.monotonic() + seconds
    num_sent = 0
    while time.monotonic() < until_s:
        send_all(server.base_url, MODEL_NAME, requests, lambda _: None)
        num_sent += len(requests)
    return num_sent


def wait_until_seen(alerts: dict[str, int], receiver: Receiver, disk: Disk) -> None:
    deadline_s = time.monotonic() + LAST_ALERTS_S
    while not alerts.keys() <= receiver.times_ns.keys() & disk.times_ns.keys():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"some of {len(alerts)} alerts did not arrive")
        time.sleep(0.05)


class Receiver(OtlpReceiver):
    """Knows when each alert came first."""

    def __init__(self) -> None:
        self.times_ns: dict[str, int] = {}
        super().__init__()

    def take_logs(self, request: Any) -> Any:
        now_ns, num_before = time.time_ns(), len(self.logs)
        reply = super().take_logs(request)
        for log in self.logs[num_before:]:
            self.times_ns.setdefault(log.attributes["saeguard.alert.id"], now_ns)
        return reply


class Disk:
    """Knows when each alert could be read first, while it is entered."""

    def __init__(self, store: Path) -> None:
        self.times_ns: dict[str, int] = {}
        self._store = store
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Disk:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _look(self) -> None:
        newest = 0
        uri = f"{self._store.as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            for _ in self._changes(db):
                query = "SELECT row, id FROM alerts WHERE row > ? ORDER BY row"
                now_ns, rows = time.time_ns(), db.execute(query, (newest,)).fetchall()
                self.times_ns.update((alert_id, now_ns) for _, alert_id in rows)
                newest = rows[-1][0] if rows else newest

    def _changes(self, db: sqlite3.Connection) -> Iterator[None]:
        version = -1
        while not self._left.wait(0.001):
            before, (version,) = version, db.execute("PRAGMA data_version").fetchone()
            if version != before:
                yield


def show(action: str, latencies: Latencies) -> None:
    print(
        f"action: {action}: {len(latencies.decided)} alerts in {latencies.num_requests} requests, "
        f"{os.cpu_count()} cores; milliseconds since the forward pass"
    )
    rows = {
        "decided": latencies.decided,
        "on disk": latencies.on_disk,
        "at the receiver": latencies.received,
    }
    print(f"{'':17}" + "".join(f"{name:>8}" for name in PERCENTILES))
    for name, values in rows.items():
        cells = np.percentile(values, list(PERCENTILES.values()))
        print(f"{name:17}" + "".join(f"{cell:8.1f}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
