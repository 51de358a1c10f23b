"""A change of rules under live requests: nothing is lost that the rules look back on."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_engine import RULES, frame_message, start_message, write_rules

from saeguard.monitor.carry_over import lookback
from saeguard.monitor.columns import order_of
from saeguard.monitor.detector import Detection, Detector
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, RuleSet, load_rules
from saeguard.rules.matches import Decision

NO_TEXTS = TokenTexts(None, captured=False)
COLUMNS = ["deceit", "calm"]
SIGNALS = """
      peak: {feature: deceit, agg: max, window: 5 tokens, gte: 5}
      often: {feature: deceit, agg: count, over: 3, window: 16 tokens, gte: 7}
      level: {feature: calm, agg: ema, half_life: 2 tokens, gte: 2.5}
      dull: {feature: calm, agg: mean, window: 9 tokens, lt: 2}
"""
CONDITIONS = {
    "one": ("peak and not dull", ""),
    "two": ("often or level", "for: 3 tokens"),
    "three": ("2 of (peak, often, level)", "keep_firing_for: 4 tokens"),
    "four": ("dull", "for: 6 tokens"),
}


def load(directory: Path, text: str) -> RuleSet:
    path = write_rules(directory)
    path.write_text(text)
    return load_rules([path])


def many_rules(directory: Path) -> RuleSet:
    head, _, _ = RULES.partition("rules:\n")
    rules = "".join(
        f"""
  - id: 00000000-0000-4000-8000-00000000000{number}
    name: {name}
    title: t
    status: test
    severity: low
    scope: {{phase: [prompt, answer]}}
    limit: {{max: 1000}}
    message: m
    condition: {condition}
    {extra}
    signals:{"".join(line for line in SIGNALS.splitlines(True) if _names(line, condition))}
"""
        for number, (name, (condition, extra)) in enumerate(CONDITIONS.items())
    )
    return load(directory, f"{head}rules:\n{rules}")


def _names(line: str, condition: str) -> bool:
    return not line.strip() or line.split(":")[0].strip() in condition


def run(ruleset: RuleSet, scores: np.ndarray, cuts: list[int], swap_at: int | None) -> list[tuple]:
    """What one detector finds in the stream of each request; at `swap_at` the rules are changed
    for the same ones.
    """
    detector = Detector(Engine(ruleset, COLUMNS), "w", len(COLUMNS), record_tokens=64)
    for number in range(len(scores)):
        detector.start(start_message(f"r{number}", [0] * 40), NO_TEXTS)
    found: list[tuple] = []
    for step, (begin, end) in enumerate(pairwise(cuts)):
        if begin == swap_at:
            detector.adopt(Engine(ruleset, COLUMNS), lookback(ruleset), "w", None)
        rows = {f"r{i}": (begin, part[begin:end].tolist()) for i, part in enumerate(scores)}
        detections = detector.observe(*frame_message(rows, step + 1, "w"), 0.0)
        _account(detections)
        found += [(d.match.key, d.match.position, d.match.rule.name) for d in detections]
    return found


def _account(detections: list[Detection]) -> None:
    for detection in detections:
        context = detection.request.context
        detection.request.decisions.count(Decision(detection.match, context, 0, "alert"))


@pytest.mark.parametrize("seed", range(20))
def test_rules_that_take_over_find_what_they_would_have_found_all_along(tmp_path: Path, seed: int):
    random = np.random.default_rng(seed)
    ruleset = many_rules(tmp_path)
    scores = random.choice([0, 1, 2, 4, 6], size=(3, 100, 2), p=[0.3, 0.2, 0.2, 0.2, 0.1])
    scores = np.where(random.random(scores.shape) < 0.1, np.nan, scores)
    cuts = sorted({0, 100, *random.integers(1, 100, 12).tolist()})
    swap_at = int(random.choice(cuts[3:-1]))
    assert lookback(ruleset) <= 64
    expected = run(ruleset, scores, cuts, swap_at=None)
    assert len({name for _, _, name in expected}) == len(CONDITIONS)
    assert run(ruleset, scores, cuts, swap_at) == expected


def test_a_new_rule_that_holds_already_matches_on_the_next_token(tmp_path: Path):
    old = load(tmp_path, RULES)
    new = load(tmp_path, RULES.replace("gte: 4.0", "gte: 3.0"))
    detector = Detector(Engine(old, COLUMNS), "w", 2, record_tokens=16)
    detector.start(start_message("a", [1]), NO_TEXTS)
    assert not detector.observe(*frame_message({"a": (0, [[0, 0], [3.5, 0]])}, 1, "w"), 0.0)
    detector.adopt(Engine(new, COLUMNS), lookback(new), "w", None)
    (found,) = detector.observe(*frame_message({"a": (2, [[0, 0]])}, 2, "w"), 0.0)
    assert (found.match.position, found.match.first_position) == (2, 1)
    assert not detector.observe(*frame_message({"a": (3, [[0, 0]])}, 3, "w"), 0.0), "one match"


def test_columns_of_another_watchlist_are_found_by_feature(tmp_path: Path):
    ruleset = load(tmp_path, RULES)
    wanted = ["anger", "deceit", "calm"]
    detector = Detector(Engine(ruleset, COLUMNS), "w", 2, record_tokens=16)
    detector.start(start_message("a", [1]), NO_TEXTS)
    detector.observe(*frame_message({"a": (0, [[0, 0], [3, 0.5]])}, 1, "w"), 0.0)
    order = order_of(wanted, COLUMNS)
    detector.adopt(Engine(ruleset, wanted), lookback(ruleset), "x", order)
    new = frame_message({"a": (2, [[4.5, 0, 9]])}, 2, "x", tuple(wanted))
    (found,) = detector.observe(*new, 0.0)
    assert found.match.readings["lie"].value == 4.5
    rows, _ = found.request.table.get(found.request.slot)
    np.testing.assert_array_equal(rows.scores[1:], [[np.nan, 3, 0.5], [9, 4.5, 0]])


def test_speculated_tokens_that_are_not_settled_yet_move_to_the_new_columns(tmp_path: Path):
    """Also of a request that the rule engine had no room for."""
    ruleset = load(tmp_path, RULES)
    wanted = ["anger", "calm", "deceit"]
    detector = Detector(Engine(ruleset, COLUMNS, max_requests=1), "w", 2, record_tokens=16)
    rows = {"a": (0, [[0, 0], [5, 0]]), "b": (0, [[0, 0], [5, 0]])}
    for name in rows:
        detector.start(start_message(name, [1]), NO_TEXTS)
    drafts = {"num_drafts": [1, 1]}
    assert not detector.observe(*frame_message(rows, 1, "w", **drafts), 0.0), "not settled yet"
    order = order_of(wanted, COLUMNS)
    detector.adopt(Engine(ruleset, wanted, max_requests=1), lookback(ruleset), "x", order)
    rows = {name: (2, [[0, 0, 0]]) for name in rows}
    (found,) = detector.observe(*frame_message(rows, 2, "x", tuple(wanted)), 0.0)
    assert (found.match.key, found.match.position) == ("a", 1)


def test_a_failing_change_leaves_everything_as_it_was(tmp_path: Path):
    ruleset = load(tmp_path, RULES)
    detector = Detector(Engine(ruleset, COLUMNS), "w", 2, record_tokens=16)
    detector.start(start_message("a", [1]), NO_TEXTS)
    detector.observe(*frame_message({"a": (0, [[0, 0]])}, 1, "w"), 0.0)
    with pytest.raises(IndexError):  # an order that speaks of columns that are not there
        detector.adopt(Engine(ruleset, COLUMNS), 64, "x", np.array([0, 7]))
    (found,) = detector.observe(*frame_message({"a": (1, [[5, 0]])}, 2, "w"), 0.0)
    assert found.match.position == 1
