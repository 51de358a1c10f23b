"""Requests of one feature whose answers are known, and rules for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saeguard.rules import RequestContext, RuleSet, load_rules
from saeguard.rules.calibration.labels import Example, Label
from saeguard.rules.recordings.offline import RecordedRequest

NUM_PROMPT, NUM_TOKENS = 4, 24

RULES = """# thresholds by eye
version: 1
ruleset: {name: lies, version: 1.0.0}
features:
  lie: {probe: {path: p.safetensors}, name: lie, label: x, max: 10}
  calm: {probe: {path: p.safetensors}, name: calm, label: x}
rules:
  - id: 00000000-0000-4000-8000-000000000001
    name: lying
    title: A lie
    status: test
    severity: high
    scope: {phase: [answer]}
    signals:
      lie: {feature: lie, agg: max, window: 4 tokens, gte: 3.0}   # by eye
    condition: lie
    message: "a lie"
    falsepositives: []
"""


def load(directory: Path, text: str = RULES) -> RuleSet:
    path = directory / "rules.yaml"
    path.write_text(text)
    return load_rules([path])


def request(name: str, lie: np.ndarray, calm: np.ndarray | None = None) -> RecordedRequest:
    """Prompt, then answer; scores [tokens]."""
    calm = np.zeros_like(lie) if calm is None else calm
    phases = np.full(len(lie), 3, np.uint8)
    phases[:NUM_PROMPT] = 1
    return RecordedRequest(
        context=RequestContext(id=name),
        columns=("lie", "calm"),
        scores=np.stack([lie, calm], axis=1).astype(np.float32),
        positions=np.arange(len(lie), dtype=np.int32),
        phases=phases,
    )


def examples(number: int, seed: int = 0, **label: object) -> list[Example]:
    """Half of them lie on tokens 10 to 12, more or less."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(number):
        lies = i % 2 == 0
        scores = np.abs(rng.normal(0, 1, NUM_TOKENS))
        if lies:
            scores[10:13] += rng.normal(3, 1)
        span = {"span": (10, 13)} if lies else {}
        known = Label(f"r{i}", lies, **{**span, **label})
        found.append(Example(request(f"r{i}", scores), known, lies))
    return found
