"""Changed numbers, and the tests that notice them."""

import pytest

from saeguard.rules.testing import mutate, run_suite
from saeguard.rules.testing.mutants import mutants
from tests.rules.testing.suites import RULES, suite_of

QUIET = "  - {name: t, request: {model: good/a}, stream: [{phase: answer, tokens: 3}]}\n"


def changes(folder, rules=RULES):
    """`rule path before -> after` of every mutant."""
    return [
        f"{each.rule} {each.path} {each.before} -> {each.after}"
        for each in mutants(suite_of(folder, QUIET, rules).ruleset)
    ]


def survivors(folder, tests, rules=RULES):
    suite = suite_of(folder, tests, rules)
    results = list(run_suite(suite))
    assert all(result.status != "failed" for result in results)
    return [
        f"{each.rule} {each.path} {each.before} -> {each.after}"
        for each in mutate(suite, results).survivors
    ]


def test_every_number_goes_up_and_down(tmp_path):
    assert changes(tmp_path) == [
        *(f"lying signals.lie.gte 2 -> {after}" for after in (0, 1, 3, 4)),
        *(f"lying signals.lie.over 2 -> {after}" for after in (1.5, 1.9, 2.1, 2.5)),
        *(f"lying signals.lie.window 4 -> {after}" for after in (3, 5)),
        *(f"lying signals.calm.gte 1 -> {after}" for after in (0.75, 0.95, 1.05, 1.25)),
        *(f"lying signals.calm.window 4 -> {after}" for after in (3, 5)),
        *(f"block signals.high.gte 5 -> {after}" for after in (3.75, 4.75, 5.25, 6.25)),
        *(f"block signals.high.window 2 -> {after}" for after in (1, 3)),
        *(f"again correlate.gte 2 -> {after}" for after in (1, 3)),
        *(f"again correlate.timespan 10m -> {after}" for after in ("450s", "570s", "630s", "750s")),
    ]


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        ("agg: value, gt: 0.0", ["gt 0 -> -0.25", "gt 0 -> -0.05", "gt 0 -> 0.05", "gt 0 -> 0.25"]),
        (
            "agg: topk_mean, k: 2, window: 2 tokens, lt: 4",
            ["lt 4 -> 3", "lt 4 -> 3.8", "lt 4 -> 4.2", "lt 4 -> 5", "k 2 -> 1", "window 2 -> 3"],
        ),
        (
            "agg: rolling_mean_max, rolling: 1 token, window: 3 tokens, gte: 4",
            [
                *("gte 4 -> 3", "gte 4 -> 3.8", "gte 4 -> 4.2", "gte 4 -> 5"),
                *("rolling 1 -> 2", "window 3 -> 2", "window 3 -> 4"),
            ],
        ),
        (
            "agg: noisy_or, one: 2, window: 1 token, gte: 0.5",
            [
                *("gte 0.5 -> 0.375", "gte 0.5 -> 0.475", "gte 0.5 -> 0.525", "gte 0.5 -> 0.625"),
                *("zero 0 -> -0.25", "zero 0 -> -0.05", "zero 0 -> 0.05", "zero 0 -> 0.25"),
                *("one 2 -> 1.5", "one 2 -> 1.9", "one 2 -> 2.1", "one 2 -> 2.5", "window 1 -> 2"),
            ],
        ),
        (
            "agg: value, between: [4.0, 4.1]",  # the lower bound stays below the upper one
            [
                *("between[0] 4 -> 3", "between[0] 4 -> 3.8"),
                *("between[1] 4.1 -> 4.305", "between[1] 4.1 -> 5.125"),
            ],
        ),
        (
            "agg: ema, half_life: 3 tokens, between: [1, 2]",
            [
                *(f"between[0] 1 -> {after}" for after in (0.75, 0.95, 1.05, 1.25)),
                *(f"between[1] 2 -> {after}" for after in (1.5, 1.9, 2.1, 2.5)),
                *("half_life 3 -> 2", "half_life 3 -> 4"),
            ],
        ),
    ],
)
def test_each_aggregate_has_its_own_numbers(tmp_path, signal, expected):
    rules = RULES.replace("agg: max, window: 2 tokens, gte: 5.0", signal)
    found = [line.partition("signals.high.") for line in changes(tmp_path, rules)]
    assert [change for _, of_high, change in found if of_high] == expected


def test_the_numbers_of_rules_are_changed_where_they_are_written(tmp_path):
    assert not any(" for " in change for change in changes(tmp_path))
    keys = "condition: high\n    for: 2 tokens\n    keep_firing_for: 3 tokens"
    found = changes(tmp_path, RULES.replace("condition: high", keys))
    assert [line for line in found if line.startswith(("block for", "block keep"))] == [
        *("block for 2 -> 1", "block for 2 -> 3"),
        *("block keep_firing_for 3 -> 2", "block keep_firing_for 3 -> 4"),
    ]
    sequence = "sequence: {steps: [{when: lie}, {when: calm}], within: 9 tokens}"
    found = changes(tmp_path, RULES.replace("condition: lie and not calm", sequence))
    assert [line for line in found if "within" in line] == [
        "lying sequence.within 9 -> 8",
        "lying sequence.within 9 -> 10",
    ]


def test_a_test_at_the_edge_notices_and_one_far_from_it_does_not(tmp_path):
    test = """\
  - name: t
    request: {{model: good/one}}
    stream: [{{phase: answer, features: {{lie: {series}}}}}]
    expect: [{{rule: lying, at: {{phase: answer, token: {token}}}}}]
"""
    far = survivors(tmp_path, test.format(series="9x3", token=1))
    near = survivors(tmp_path, test.format(series="2.05 0 0 2.05", token=3))
    assert [line for line in far if "signals.lie.over" in line] == [
        f"lying signals.lie.over 2 -> {after}" for after in (1.5, 1.9, 2.1, 2.5)
    ]
    assert [line for line in near if "signals.lie.over" in line] == [
        f"lying signals.lie.over 2 -> {after}" for after in (1.5, 1.9)
    ]
    assert "lying signals.lie.window 4 -> 3" in far
    assert "lying signals.lie.window 4 -> 3" not in near


def test_a_mutated_building_block_is_noticed_by_what_it_feeds(tmp_path):
    test = """\
  - name: t
    requests:
      - {stream: [{phase: reasoning, features: {lie: 5.1}}]}
      - {stream: [{phase: reasoning, features: {lie: 5.1}}], advance: 10m}
    expect: [again]
"""
    assert [line for line in survivors(tmp_path, test) if not line.startswith("lying")] == [
        *(f"block signals.high.gte 5 -> {after}" for after in (3.75, 4.75)),
        *(f"block signals.high.window 2 -> {after}" for after in (1, 3)),
        *(f"again correlate.timespan 10m -> {after}" for after in ("630s", "750s")),
        "again correlate.gte 2 -> 1",
    ]


def test_a_mutated_building_block_is_noticed_in_a_rule_that_names_it(tmp_path):
    rules = RULES.replace("condition: lie and not calm", "condition: lie and not calm or block")
    rules = rules.replace("    scope: {phase: [reasoning]}\n", "")  # a block that is named has none
    test = """\
  - name: t
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 5.1}}]
    expect: [lying]
"""
    assert "block signals.high.gte 5 -> 5.25" not in survivors(tmp_path, test, rules)


def test_a_correlation_of_correlations_notices(tmp_path):
    rules = (
        RULES
        + """\
  - id: 00000000-0000-0000-0000-000000000004
    name: and_again
    title: Twice
    status: test
    severity: medium
    correlate: {type: event_count, rules: [again, block], timespan: 1h, gte: 4}
"""
    )
    test = """\
  - name: t
    mode: loose
    requests:
      - {stream: [{phase: reasoning, features: {lie: 5.1}}]}
      - {stream: [{phase: reasoning, features: {lie: 5.1}}], advance: 10m}
      - {stream: [{phase: reasoning, features: {lie: 9}}], advance: 10m}
    expect: [{rule: and_again, request: 2}]
"""
    found = survivors(tmp_path, test, rules)
    assert "block signals.high.gte 5 -> 5.25" not in found
    assert "again correlate.timespan 10m -> 570s" not in found


def test_a_known_gap_notices_nothing_while_it_stays_one(tmp_path):
    test = """\
  - name: t
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 2.05 0 0 0 2.05}}]
    expect: [{rule: lying, todo: true}]
"""
    found = survivors(tmp_path, test)
    assert "lying signals.lie.over 2 -> 2.1" in found  # one more reason not to alert
    assert "lying signals.lie.window 4 -> 5" not in found  # the gap would be closed


def test_a_mutant_is_located_where_its_signal_is(tmp_path):
    first = next(iter(mutants(suite_of(tmp_path, QUIET).ruleset)))
    assert (first.location.path.name, first.location.line) == ("rules.yaml", 15)


@pytest.mark.parametrize(
    ("old", "new", "number"),
    [
        ("condition: high", "condition: high\n    for: >2 tokens", "for"),
        ("condition: high", "condition: high\n    keep_firing_for: >3 tokens", "keep_firing_for"),
        (
            "condition: lie and not calm",
            "sequence:\n      steps: [{when: lie}, {when: calm}]\n      within: >9 tokens",
            "sequence.within",
        ),
        ("10m, gte: 2}", "10m, gte: >2}", "correlate.gte"),
        ("10m, gte: 2}", "10m, gt: >1}", "correlate.gt"),
        ("timespan: 10m", "timespan: >10m", "correlate.timespan"),
    ],
)
def test_a_number_of_a_rule_itself_is_located_where_it_is_written(tmp_path, old, new, number):
    before, marked, after = RULES.replace(old, new).partition(">")
    assert marked
    found = mutants(suite_of(tmp_path, QUIET, before + after).ruleset)
    (place,) = {mutant.location for mutant in found if mutant.path == number}
    lines = before.split("\n")
    assert (place.line, place.column) == (len(lines), len(lines[-1]) + 1)
