"""A real server whose monitor is killed: serving goes on, and the monitor comes back."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from openai import OpenAI
from running_monitor import is_monitor

from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.store import list_requests, totals
from saeguard.monitor.watchlist import save
from saeguard.rules import load_rules

pytestmark = pytest.mark.server

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"


def wait_for(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("server")
    save(compile_watchlist(load_rules([ORGANISM / "rules.yaml"])), work / "watch.safetensors")
    config = work / "saeguard.yaml"
    values = {
        "version": 1,
        "rules": [str(ORGANISM / "rules.yaml")],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
        "run_dir": "run",
        # A destination that is down must not be felt anywhere.
        "destinations": [{"kind": "otlp", "endpoint": "http://127.0.0.1:9"}],
    }
    config.write_text(yaml.safe_dump(values))
    with Server(ORGANISM / "artifacts" / "model", config, work / "server.log") as server:
        server.wait_until_ready(lambda *_: None)
        yield server


AT_AN_END = 3
"""Requests at most that had just ended, and their clients between two of them, at the kill."""


def chat(server: Server) -> str:
    client = OpenAI(base_url=server.base_url, api_key="unused", max_retries=0)
    messages = [{"role": "user", "content": "How are you?"}]
    answer = client.chat.completions.create(model=MODEL_NAME, messages=messages, max_tokens=8)
    return answer.choices[0].message.content or ""


def finished(server: Server) -> int:
    return totals(server.log.with_name("alerts.sqlite")).get("requests/finished", 0)


def monitors(server: Server) -> list[int]:
    below = psutil.Process(server._process.pid).children(recursive=True)
    return [process.pid for process in below if is_monitor(process)]


def test_a_request_is_served_and_accounted_for(server: Server):
    assert chat(server)
    wait_for(lambda: finished(server) == 1)


@dataclass
class Load:
    """Clients that ask one thing after another until they are told to stop."""

    server: Server
    num_clients: int = 8
    stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(self.num_clients)
        self._clients = [self._pool.submit(self._ask, i) for i in range(self.num_clients)]
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._pool.shutdown()

    def num_rows(self) -> list[int]:
        """How many tokens of each request the model has read."""
        return [rows for client in self._clients for rows in client.result()]

    def _ask(self, number: int) -> list[int]:
        client = OpenAI(base_url=self.server.base_url, api_key="unused", max_retries=0)
        rows = []
        while not self.stop.is_set():
            answer = client.chat.completions.create(
                model=MODEL_NAME,
                messages=[{"role": "user", "content": f"How are you, number {number}?"}],
                max_tokens=250,
                extra_body={"ignore_eos": True},
            )
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 250
            rows.append(answer.usage.total_tokens - 1)
        return rows


def account(server: Server) -> Counter[str]:
    store = totals(server.log.with_name("alerts.sqlite"))
    return Counter({k: n for k, n in store.items() if k.startswith(("tokens/", "requests/fin"))})


def test_a_monitor_killed_at_full_load_is_back_in_two_seconds_and_shows_the_gap(server: Server):
    (killed,) = monitors(server)
    before = account(server)
    ready = server.log.with_name("run") / "ready"
    with Load(server) as load:
        time.sleep(2)
        os.kill(killed, signal.SIGKILL)
        killed_s = time.time()
        wait_for(lambda: ready.exists() and ready.stat().st_mtime > killed_s)
        down_s = ready.stat().st_mtime - killed_s
        time.sleep(2)
    rows = load.num_rows()
    print(f"back after {down_s:.2f} s, {len(rows)} requests")
    wait_for(lambda: (account(server) - before)["requests/finished"] >= len(rows))
    seen = account(server) - before
    num_seen, num_scheduled = seen.pop("requests/finished"), seen.pop("tokens/scheduled")
    assert num_scheduled == seen.total(), "observed, cached, or unseen for a reason"
    assert num_scheduled >= sum(rows)
    assert num_seen == len(rows), "each once, also those that the killed monitor had not stored"
    assert set(seen) - {"tokens/cached"} == {"tokens/observed", "tokens/unseen/monitor_down"}
    holes = [r for r in list_requests(server.log.with_name("alerts.sqlite"), 1000)
             if r.coverage.unseen]  # fmt: skip
    assert len(holes) >= load.num_clients - AT_AN_END, "those that were running"
    assert all(set(record.coverage.unseen) == {"monitor_down"} for record in holes)
    assert sum(record.coverage.observed == 0 for record in holes) <= AT_AN_END
    assert down_s < 2


def test_the_monitor_ends_with_the_server(server: Server):
    (pid,) = monitors(server)
    server.stop()
    wait_for(lambda: not psutil.pid_exists(pid))
