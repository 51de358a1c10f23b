"""A real server whose monitor is killed: serving goes on, and the monitor comes back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml
from openai import OpenAI

from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.store import totals
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
        # A destination that is down must not be felt anywhere.
        "destinations": [{"kind": "otlp", "endpoint": "http://127.0.0.1:9"}],
    }
    config.write_text(yaml.safe_dump(values))
    with Server(ORGANISM / "artifacts" / "model", config, work / "server.log") as server:
        server.wait_until_ready(lambda *_: None)
        yield server


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


def is_monitor(process: psutil.Process) -> bool:
    try:
        return "saeguard.monitor" in process.cmdline()
    except psutil.Error:  # it has just ended
        return False


def test_a_request_is_served_and_accounted_for(server: Server):
    assert chat(server)
    wait_for(lambda: finished(server) == 1)


def test_a_killed_monitor_harms_no_request_and_is_started_again(server: Server):
    (before,) = monitors(server)
    os.kill(before, signal.SIGKILL)
    assert chat(server)
    wait_for(lambda: monitors(server) not in ([], [before]))
    count = finished(server)
    assert chat(server)
    wait_for(lambda: finished(server) > count)


def test_the_monitor_ends_with_the_server(server: Server):
    (pid,) = monitors(server)
    server.stop()
    wait_for(lambda: not psutil.pid_exists(pid))
