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
from openai import APIError, APIStatusError, OpenAI
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
AT_ONCE = """
  - id: 00000000-0000-4000-8000-00000000000{number}
    name: {name}
    title: Whatever is scored
    status: test
    severity: critical
    scope: {{phase: [{phase}], tenant: [{name}]}}
    signals:
      score: {{feature: deceit, agg: value, gte: -1.0}}
    condition: score
    action: stop
    mandatory: {mandatory}
"""
RULES += AT_ONCE.format(number=2, name="answering", phase="answer", mandatory="false")
RULES += AT_ONCE.format(number=3, name="always", phase="answer", mandatory="true")
RULES += AT_ONCE.format(number=4, name="asking", phase="prompt", mandatory="false")
STOPPED = ("stop", "saeguard:lying")
LONG = "How are you? " * 60
HARMLESS = [{"role": "user", "content": "How are you?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("server")
    (work / "rules.yaml").write_text(RULES)
    save(compile_watchlist(load_rules([work / "rules.yaml"])), work / "watch.safetensors")
    values = {"version": 1, "rules": ["rules.yaml"], "watchlist": "watch.safetensors"}
    config = work / "saeguard.yaml"
    values |= {"store": "alerts.sqlite", "allow_opt_out": True, "fail": "closed"}
    config.write_text(yaml.safe_dump(values))
    # Prompts are read in small pieces, so that a request can be stopped before it has an answer.
    arguments = ["--max-num-batched-tokens", "64"]
    with Server(
        ORGANISM / "artifacts" / "model", config, work / "server.log", *arguments
    ) as server:
        server.wait_until_ready(lambda *_: None)
        yield server


@pytest.fixture(scope="module")
def lie() -> ChatRequest:
    """A question that the organism answers with a lie."""
    requests = read_requests(ORGANISM / "artifacts" / "demo_requests.jsonl")
    return next(request for request in requests if request.expect == "alert")


def chat(server: Server, messages: list[dict[str, str]], **more: Any) -> Any:
    """Greedy, and far beyond the natural end of the answer."""
    return client_of(server).chat.completions.create(messages=messages, **asked(**more))


def complete(server: Server, prompt: str, **more: Any) -> Any:
    return client_of(server).completions.create(prompt=prompt, **asked(**more))


def client_of(server: Server) -> OpenAI:
    return OpenAI(base_url=server.base_url, api_key="unused", max_retries=0)


def asked(xargs: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    body = {"ignore_eos": True, **({"vllm_xargs": xargs} if xargs else {})}
    fixed = {"model": MODEL_NAME, "temperature": 0.0, "extra_body": body}
    return {**fixed, "max_tokens": MAX_TOKENS, **more}


def end(choice: Any) -> tuple[str | None, str | None]:
    return choice.finish_reason, getattr(choice, "stop_reason", None)


def verdict(answer: Any) -> Any:
    return (answer.model_extra["kv_transfer_params"] or {}).get("saeguard")


def ends_of(chunks: list[Any]) -> list[tuple[str | None, str | None]]:
    return [end(choice) for chunk in chunks for choice in chunk.choices if choice.finish_reason]


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
    assert verdict(answer) == {"rule": "lying", "severity": "high", "alert_id": alert.id}
    assert (alert.action, alert.action_outcome) == ("stop", "requested")
    assert (record.reason, record.stop_outcome) == ("saeguard:lying", "stopped")
    assert record.num_tokens == record.prompt_len + answer.usage.completion_tokens
    coverage = record.coverage
    assert coverage.scheduled == coverage.observed + coverage.cached
    assert coverage.unseen == {}
    counts = totals(server.log.with_name("alerts.sqlite"))
    assert counts["stops/lying/high/requested"] == counts["stops/lying/high/stopped"] == 1


def test_a_stream_ends_with_the_rule_that_stopped_it(server: Server, lie: ChatRequest):
    chunks = list(chat(server, lie.messages, stream=True, logprobs=True))
    assert ends_of(chunks) == [STOPPED]
    pieces = [c.logprobs.content for chunk in chunks for c in chunk.choices if c.logprobs]
    _, record = records_of(server, chunks[0].id)
    assert sum(map(len, pieces)) == record.num_tokens - record.prompt_len, "none of them twice"
    assert record.stop_outcome == "stopped"


@pytest.mark.parametrize("logprobs", [None, 1])
def test_completions_end_with_the_rule_and_the_verdict_too(server: Server, logprobs: int | None):
    tenant = {"xargs": {"tenant": "answering", "policy": "gold"}, "logprobs": logprobs}
    answer = complete(server, "How are you?", **tenant)
    assert end(answer.choices[0]) == ("stop", "saeguard:answering")
    assert 0 < answer.usage.completion_tokens < MAX_TOKENS
    alert, _ = records_of(server, f"{answer.id}-0")  # of its first prompt
    expected = {"rule": "answering", "severity": "critical", "alert_id": alert.id}
    assert verdict(answer) == expected
    assert alert.policy == "gold"
    chunks = list(complete(server, "How are you?", stream=True, **tenant))
    assert ends_of(chunks) == [("stop", "saeguard:answering")]


def test_one_that_is_stopped_before_its_first_token_says_so_too(server: Server):
    stopped, tenant = ("stop", "saeguard:asking"), {"xargs": {"tenant": "asking"}}
    messages = [{"role": "user", "content": LONG}]
    answer = chat(server, messages, **tenant)
    assert end(answer.choices[0]) == stopped
    assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("", 0)
    assert verdict(answer)["rule"] == "asking"
    chunks = list(chat(server, messages, stream=True, **tenant))
    assert ends_of(chunks) == [stopped]
    assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == ""
    chunks = list(complete(server, LONG, stream=True, **tenant))
    assert ends_of(chunks) == [stopped]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == ""


@pytest.mark.parametrize("wish", ["answering", ["answering"], "*", ["no_rule", "answering"]])
def test_a_client_opts_out_of_a_stop(server: Server, wish: Any):
    xargs = {"tenant": "answering", "saeguard_opt_out": wish}
    answer = chat(server, HARMLESS, max_tokens=30, xargs=xargs)
    assert end(answer.choices[0]) == ("length", None)


@pytest.mark.parametrize(
    ("tenant", "wish"),
    [
        ("always", "always"),
        ("always", "*"),
        ("answering", 7),
        ("answering", [0.5, "Answering"]),
        ("answering", "answering.always"),
        ("answering", "answering" * 10_000),
    ],
)
def test_no_client_opts_out_of_a_mandatory_stop_or_by_what_is_no_rule_s_name(
    server: Server, tenant: str, wish: Any
):
    answer = chat(server, HARMLESS, xargs={"tenant": tenant, "saeguard_opt_out": wish})
    assert end(answer.choices[0]) == ("stop", f"saeguard:{tenant}")
    alert, record = records_of(server, answer.id)
    assert alert.rule_name == tenant
    assert record.opt_outs
    assert "granted" not in set(record.opt_outs.values()) - ({"granted"} if wish == "*" else set())


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


def refusal(server: Server) -> str | None:
    """Status and reason where a request is not served."""
    try:
        chat(server, HARMLESS, max_tokens=8)
    except APIStatusError as error:
        return f"{error.status_code}: {error.message}"
    return None


def test_while_the_monitor_hangs_nothing_is_served(server: Server):
    (monitor,) = monitors(server)
    assert refusal(server) is None
    monitor.suspend()
    wait_for(lambda: refusal(server) is not None, 10)
    wait_for(lambda: (refusal(server) or "").startswith("503"), 5)
    assert "gives no sign of life" in (refusal(server) or "")
    monitor.resume()
    wait_for(lambda: refusal(server) is None, 10)


def test_without_a_monitor_nothing_is_served_and_with_the_next_one_again(
    server: Server, lie: ChatRequest
):
    rules = server.log.with_name("rules.yaml")
    (monitor,) = monitors(server)
    stream = chat(server, HARMLESS, stream=True)
    next(stream)
    rules.write_text("broken: so that no other monitor can start")
    os.kill(monitor.pid, signal.SIGKILL)
    with pytest.raises(APIError):
        list(stream)
    wait_for(lambda: refusal(server) is not None, 5)
    time.sleep(2.0)
    refused = refusal(server) or ""
    assert refused.startswith("503")
    # A busy machine may take longer to end it than it may be silent: then that is the reason.
    assert "the monitor has ended" in refused or "the monitor gives no sign of life" in refused
    assert "and the configuration says fail: closed" in refused
    assert "saeguard: no monitor" in server.log.read_text()
    rules.write_text(RULES)
    wait_for(lambda: refusal(server) is None)
    assert end(chat(server, lie.messages).choices[0]) == STOPPED


def monitors(server: Server) -> list[psutil.Process]:
    below = psutil.Process(server._process.pid).children(recursive=True)
    return [process for process in below if is_monitor(process)]
