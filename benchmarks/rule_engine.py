"""How many tokens per second the rule engine takes: `python -I benchmarks/rule_engine.py`.

50 rules of three signals over 16 features, windows of 32 tokens, in two loads: decode steps of 256
requests with one token each, and a prefill of one request with 2048 tokens. One number for each
load, the median over repeats, in seconds of one core: the engine runs on one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from uuid import UUID

import numpy as np

from saeguard.rules import Engine, Phase, RequestContext, RuleSet, load_rules

NUM_FEATURES = 16
NUM_RULES = 50

_RULE = """
  - id: {id}
    name: rule_{i}
    title: Rule {i}
    status: test
    severity: low
    signals:
      peak: {{feature: f{a}, agg: max, window: 32 tokens, gte: 4.{i}}}
      many: {{feature: f{b}, agg: count, over: 2.0, window: 32 tokens, gte: 6}}
      last: {{feature: f{c}, agg: {last}, gte: 2.{i}}}
    condition: peak and (many or not last)
    for: 2 tokens
"""
_LASTS = ("value", "ema, half_life: 16 tokens", "mean, window: 32 tokens")


def make_rules() -> RuleSet:
    """Rules that share features as rules do: 50 of them over 16."""
    names = [f"f{i}" for i in range(NUM_FEATURES)]
    features = "".join(f"  {name}: {{sae: {{path: sae}}, index: 1}}\n" for name in names)
    rules = "".join(
        _RULE.format(
            id=UUID(int=i),
            i=i,
            a=i % NUM_FEATURES,
            b=(i + 1) % NUM_FEATURES,
            c=(i + 2) % NUM_FEATURES,
            last=_LASTS[i % 3],
        )
        for i in range(NUM_RULES)
    )
    head = "version: 1\nruleset: {name: benchmark, version: '1'}\nfeatures:\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rules.yaml")
        path.write_text(f"{head}{features}rules:{rules}")
        return load_rules([path])


def tokens_per_second(num_requests: int, num_tokens: int, num_steps: int) -> float:
    """Rate of steps in which every request brings `num_tokens` answer tokens."""
    ruleset = make_rules()
    engine = Engine(ruleset, ruleset.used_features())
    keys = [f"request-{i}" for i in range(num_requests)]
    for key in keys:
        engine.start(key, RequestContext())
    rows = num_requests * num_tokens
    scores = np.random.default_rng(0).normal(size=(num_steps, rows, NUM_FEATURES))
    steps = scores.astype(np.float32)
    row_starts = np.arange(num_requests + 1) * num_tokens
    positions = np.tile(np.arange(num_tokens), num_requests)
    phases = np.full(rows, Phase.ANSWER, np.uint8)
    seconds = []
    for step in steps:
        begin = time.process_time()
        engine.observe(keys, row_starts, step, positions, phases)
        seconds.append(time.process_time() - begin)
    return rows / statistics.median(seconds)


if __name__ == "__main__":
    decode = tokens_per_second(num_requests=256, num_tokens=1, num_steps=300)
    prefill = tokens_per_second(num_requests=1, num_tokens=2048, num_steps=30)
    print(f"decode,  256 requests x 1 token:  {decode:>12,.0f} tokens per core-second")
    print(f"prefill, 1 request x 2048 tokens: {prefill:>12,.0f} tokens per core-second")
