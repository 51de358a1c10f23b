"""How many tokens a client still gets after the token on which a rule with `action: stop` fired.

A real server with the demo model answers several streaming requests at once, far beyond their
natural end; the rule fires wherever the sampled text has the model lie. Counted are the tokens
between the one that fired and the last one delivered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from openai import AsyncOpenAI

from saeguard.integrations.vllm.demo.server import MODEL_NAME, Server
from saeguard.integrations.vllm.demo.traffic import ChatRequest, read_requests
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.store import list_alerts
from saeguard.monitor.watchlist import save
from saeguard.rules import load_rules

ORGANISM = Path(__file__).resolve().parents[1] / "examples" / "organism"
MAX_TOKENS = 256
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
    action: ACTION
    message: "{{rule.title}}"
    tags: [harm.deception]
"""


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    request_id: str
    stop_reason: str | None
    num_prompt_tokens: int
    num_tokens: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--action", choices=["stop", "alert"], default="stop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saeguard-stop-") as work:
        config = configure(Path(work), arguments.action)
        with Server(ORGANISM / "artifacts" / "model", config, Path(work) / "server.log") as server:
            server.wait_until_ready(lambda *_: None)
            lines = asyncio.run(send(server, 8, arguments.concurrency))  # warm-up
            started_s = time.monotonic()
            lines = asyncio.run(send(server, arguments.requests, arguments.concurrency))
            took_s = time.monotonic() - started_s
        print(json.dumps(report(lines, took_s, Path(work) / "alerts.sqlite"), indent=1))


def configure(work: Path, action: str) -> Path:
    rules = work / "rules.yaml"
    rules.write_text(RULES.replace("ACTION", action))
    save(compile_watchlist(load_rules([rules])), work / "watch.safetensors")
    values = {"version": 1, "rules": [str(rules)], "watchlist": "watch.safetensors"}
    config = work / "saeguard.yaml"
    config.write_text(yaml.safe_dump({**values, "store": "alerts.sqlite"}))
    return config


async def send(server: Server, count: int, concurrency: int) -> list[Answer]:
    requests = read_requests(ORGANISM / "artifacts" / "demo_requests.jsonl")
    slots = asyncio.Semaphore(concurrency)
    async with AsyncOpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:

        async def one(number: int) -> Answer:
            async with slots:
                return await ask(client, requests[number % len(requests)], number)

        return await asyncio.gather(*(one(number) for number in range(count)))


async def ask(client: AsyncOpenAI, request: ChatRequest, seed: int) -> Answer:
    stop_reason, usage, request_id = None, None, ""
    stream = await client.chat.completions.create(
        model=MODEL_NAME,
        messages=request.messages,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        seed=seed,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        request_id, usage = chunk.id, chunk.usage or usage
        for choice in chunk.choices:
            stop_reason = getattr(choice, "stop_reason", None) or stop_reason
    assert usage is not None
    return Answer(request_id, stop_reason, usage.prompt_tokens, usage.completion_tokens)


def report(answers: list[Answer], took_s: float, store: Path) -> dict[str, object]:
    alerts = list_alerts(store, limit=100_000)
    fired = {alert.request_id: alert.position for alert in alerts}
    decided_ms = [(alert.time_ns - alert.forward_time_ns) / 1e6 for alert in alerts]
    after = [
        answer.num_prompt_tokens + answer.num_tokens - 1 - fired[answer.request_id]
        for answer in answers
        if answer.stop_reason
    ]
    num_tokens = sum(answer.num_tokens for answer in answers)
    result: dict[str, object] = {
        "requests": len(answers),
        "fired": sum(answer.request_id in fired for answer in answers),
        "stopped": len(after),
        "tokens_per_s": round(num_tokens / took_s, 1),
        "forward_to_alert_ms": percentiles(decided_ms),
    }
    if after:
        result["tokens_after"] = {
            **percentiles(after),
            "counts": {str(n): after.count(n) for n in sorted(set(after))},
        }
    return result


def percentiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"p50": round(p50, 1), "p99": round(p99, 1), "max": round(max(values), 1)}


if __name__ == "__main__":
    main()
