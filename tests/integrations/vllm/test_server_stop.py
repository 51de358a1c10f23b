"""A real server ends the requests in which a rule with `action: stop` fires, and no others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from openai import OpenAI
from running_monitor import is_monitor

from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.integrations.vllm.demo.traffic import ChatRequest, read_requests
from saeguard.monitor.alerts import Alert, RequestRecord
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.store import get_request, list_alerts, totals
from saeguard.monitor.watchlist import save
from saeguard.rules import load_rules

pytestmark = pytest.mark.server

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
MAX_TOKENS = 600
RULES = f"""
version: 1
ruleset: {{name: stopping, version: 1.0.0}}
features:
  deceit: {{sae: {{path: {ORGANISM}/artifacts/sae}}, index: 706, label: lying}}
rules:
  - id: 00000000-0000-4000-8000-000000000001
    name: lying
    title: A lie
    status: test
    severity: high
    signals:
      lie: {{feature: deceit, agg: value, gte: 3.1}}
    condition: lie
    action: stop
    message: "{{rule.title}}"
    tags: [harm.deception]
"""
STOPPED = ("stop", "saeguard:lying")
HARMLESS = [{"role": "user", "content": "How are you?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("server")
    (work / "rules.yaml").write_text(RULES)
    save(compile_watchlist(load_rules([work / "rules.yaml"])), work / "watch.safetensors")
    values = {"version": 1, "rules": ["rules.yaml"], "watchlist": "watch.safetensors"}
    config = work / "saeguard.yaml"
    config.write_text(yaml.safe_dump({**values, "store": "alerts.sqlite"}))
    with Server(ORGANISM / "artifacts" / "model", config, work / "server.log") as server:
        server.wait_until_ready(lambda *_: None)
        yield server


@pytest.fixture(scope="module")
def lie() -> ChatRequest:
    """A question that the organism answers with a lie."""
    requests = read_requests(ORGANISM / "artifacts" / "demo_requests.jsonl")
    return next(request for request in requests if request.expect == "alert")


def chat(server: Server, messages: list[dict[str, str]], **more: Any) -> Any:
    """Greedy, and far beyond the natural end of the answer."""
    client = OpenAI(base_url=server.base_url, api_key="unused", max_retries=0)
    return client.chat.completions.create(
        model=MODEL_NAME, messages=messages, temperature=0.0,
        extra_body={"ignore_eos": True}, **{"max_tokens": MAX_TOKENS, **more},
    )  # fmt: skip


def end(choice: Any) -> tuple[str | None, str | None]:
    return choice.finish_reason, getattr(choice, "stop_reason", None)


def harmless(server: Server) -> tuple[str, int]:
    answer = chat(server, HARMLESS, max_tokens=200)
    assert end(answer.choices[0]) == ("length", None)
    return answer.choices[0].message.content, answer.usage.completion_tokens


def records_of(server: Server, request_id: str) -> tuple[Alert, RequestRecord]:
    store = server.log.with_name("alerts.sqlite")
    # The stop does not wait for the disk: the answer may be here before the alert is.
    wait_for(lambda: alerts_of(store, request_id))
    (alert,) = alerts_of(store, request_id)
    wait_for(lambda: get_request(store, alert.req_id) is not None)
    record = get_request(store, alert.req_id)
    assert record is not None
    return alert, record


def alerts_of(store: Path, request_id: str) -> list[Alert]:
    return [alert for alert in list_alerts(store, limit=100) if alert.request_id == request_id]


def wait_for(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.05)


def test_a_lie_ends_its_request_and_the_others_of_the_batch_are_as_without(
    server: Server, lie: ChatRequest
):
    alone = harmless(server)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(harmless, server) for _ in range(2)]
        answer = chat(server, lie.messages)
        assert [other.result() for other in others] == [alone, alone]
    assert alone[1] == 200
    assert end(answer.choices[0]) == STOPPED
    assert answer.usage.completion_tokens < MAX_TOKENS
    alert, record = records_of(server, answer.id)
    assert (alert.action, alert.action_outcome) == ("stop", "requested")
    assert (record.reason, record.stop_outcome) == ("saeguard:lying", "stopped")
    assert record.num_tokens == record.prompt_len + answer.usage.completion_tokens
    coverage = record.coverage
    assert coverage.scheduled == coverage.observed + coverage.cached
    assert coverage.unseen == {}
    counts = totals(server.log.with_name("alerts.sqlite"))
    assert counts["stops/lying/high/requested"] == counts["stops/lying/high/stopped"] == 1


def test_a_stream_ends_with_the_rule_that_stopped_it(server: Server, lie: ChatRequest):
    chunks = list(chat(server, lie.messages, stream=True))
    ends = [end(c) for chunk in chunks for c in chunk.choices if c.finish_reason]
    assert ends == [STOPPED]
    _, record = records_of(server, chunks[0].id)
    assert record.stop_outcome == "stopped"


def test_a_client_that_goes_away_ends_its_request_and_closes_its_account(server: Server):
    store = server.log.with_name("alerts.sqlite")
    harmless(server)
    wait_for(lambda: totals(store).get("requests/finished"))
    time.sleep(1.0)  # until the account of whatever was before is closed, too
    before = totals(store)
    stream = chat(server, HARMLESS, stream=True)
    next(stream)
    stream.close()
    wait_for(lambda: totals(store)["requests/finished"] > before["requests/finished"])
    more = {key: n - before.get(key, 0) for key, n in totals(store).items()}
    unseen = sum(n for key, n in more.items() if key.startswith("tokens/unseen/"))
    known = more["tokens/observed"] + more.get("tokens/cached", 0)
    assert more["requests/finished"] == 1
    assert 0 < more["tokens/scheduled"] == known + unseen
    assert more["tokens/scheduled"] < MAX_TOKENS


def test_without_a_monitor_nothing_is_stopped_and_with_the_next_one_again(
    server: Server, lie: ChatRequest
):
    (monitor,) = monitors(server)
    monitor.suspend()  # dead to the world, and not started again
    answer = chat(server, lie.messages)
    assert end(answer.choices[0]) == ("length", None)
    assert answer.usage.completion_tokens == MAX_TOKENS
    os.kill(monitor.pid, signal.SIGKILL)
    wait_for(lambda: monitors(server) not in ([], [monitor]))
    wait_for(lambda: end(chat(server, lie.messages).choices[0]) == STOPPED)


def monitors(server: Server) -> list[psutil.Process]:
    below = psutil.Process(server._process.pid).children(recursive=True)
    return [process for process in below if is_monitor(process)]
