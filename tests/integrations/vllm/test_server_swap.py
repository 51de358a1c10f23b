"""A real server is given a rule with a new feature while it answers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from openai import OpenAI

from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.monitor.alerts import Alert
from saeguard.monitor.store import get_request, list_alerts, totals

pytestmark = pytest.mark.server

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
LENGTHS = (300, 230, 170)
"""Tokens of each client's answers: they do not end together, so one is always amid its answer."""


def rule(name: str, rule_id: str, threshold: float) -> dict[str, object]:
    return {
        "id": f"00000000-0000-4000-8000-{rule_id:>012}",
        "name": f"{name}_rule",
        "title": f"Reads {name}",
        "status": "test",
        "severity": "low",
        "signals": {"s": {"feature": name, "agg": "value", "gte": threshold}},
        "condition": "s",
        "message": "{rule.title}",
        "tags": ["harm.deception"],
    }


def write_rules(path: Path, with_new: bool) -> None:
    """One rule that never fires and, on demand, one of another feature that fires on any token."""
    sae = {"path": str(ORGANISM / "artifacts" / "sae")}
    features = {"old": {"sae": sae, "index": 3, "label": "old"}}
    rules = [rule("old", "1", 1e6)]
    if with_new:
        features["new"] = {"sae": sae, "index": 306, "label": "new"}
        rules.append(rule("new", "2", 0.0))
    ruleset = {"name": "changing", "version": "1.0.0"}
    document = {"version": 1, "ruleset": ruleset, "features": features, "rules": rules}
    path.write_text(yaml.safe_dump(document))


def compile_rules(work: Path) -> None:
    saeguard = str(Path(sys.executable).with_name("saeguard"))
    subprocess.run(
        [saeguard, "compile", str(work / "rules.yaml"), "-o", str(work / "watch.safetensors")],
        check=True,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    work = tmp_path_factory.mktemp("server")
    write_rules(work / "rules.yaml", with_new=False)
    compile_rules(work)
    config = work / "saeguard.yaml"
    values = {
        "version": 1,
        "rules": ["rules.yaml"],
        "watchlist": "watch.safetensors",
        "store": "alerts.sqlite",
    }
    config.write_text(yaml.safe_dump(values))
    with Server(ORGANISM / "artifacts" / "model", config, work / "server.log") as server:
        server.wait_until_ready(lambda *_: None)
        yield server


def generate(server: Server, num_tokens: int) -> int:
    """One long answer; returns its number of tokens."""
    client = OpenAI(base_url=server.base_url, api_key="unused", max_retries=0)
    answer = client.chat.completions.create(
        model=MODEL_NAME,
        messages=[{"role": "user", "content": "How are you?"}],
        max_tokens=num_tokens,
        extra_body={"ignore_eos": True},
    )
    return answer.usage.completion_tokens if answer.usage else 0


def is_amid_its_answer(store: Path, alert: Alert) -> bool:
    record = get_request(store, alert.req_id)
    assert record is not None
    return alert.first_position > record.prompt_len


def wait_for(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.05)


def test_the_rule_comes_into_force_under_running_requests_and_no_row_is_lost(server: Server):
    work = server.log.parent
    store = work / "alerts.sqlite"
    is_running = True

    def answers(num_tokens: int) -> list[int]:
        counts = []
        while is_running or len(counts) < 2:
            counts.append(generate(server, num_tokens))
        return counts

    with ThreadPoolExecutor(len(LENGTHS)) as pool:
        clients = [pool.submit(answers, num_tokens) for num_tokens in LENGTHS]
        try:
            write_rules(work / "rules.yaml", with_new=True)
            wait_for(lambda: totals(store).get("rules/reload/refused"))
            compile_rules(work)
            wait_for(lambda: totals(store).get("rules/reload/ok"))
            wait_for(lambda: totals(store).get("alerts/new_rule/low"))
        finally:
            is_running = False
        counts = [count for client in clients for count in client.result()]
    assert set(counts) == set(LENGTHS)
    wait_for(lambda: totals(store).get("requests/finished", 0) == len(counts))
    assert not [key for key in totals(store) if key.startswith("tokens/unseen/")]
    alerts = [alert for alert in list_alerts(store, limit=100) if alert.rule_name == "new_rule"]
    assert any(is_amid_its_answer(store, alert) for alert in alerts), "at the change"
    assert "saeguard changes to watchlist" in server.log.read_text()
