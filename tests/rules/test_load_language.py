"""What loading makes of each part of the language."""

import gc
from datetime import date
from time import process_time

import pytest

from saeguard.rules import Phase, Rule, load_rules
from saeguard.rules.conditions import And, AtLeast, Name, Not, Or
from saeguard.rules.model import Aggregate, Correlation, Limit, Step, StepSequence
from tests.rules.invalid import COMPLETE


@pytest.fixture(scope="module")
def rules() -> dict[str, Rule]:
    return {rule.name: rule for rule in load_rules([COMPLETE]).rules}


def test_every_aggregator_has_its_parameters(rules):
    aggregates = {each.name: each.aggregate for each in rules["lie_in_reasoning"].signals}
    deceit, pair = ("deceit",), ("x", "y")
    assert aggregates == {
        "now": Aggregate(deceit, "value"),
        "peak": Aggregate(deceit, "max", tokens=32),
        "level": Aggregate(deceit, "mean", tokens=8),
        "total": Aggregate(deceit, "sum", tokens=8),
        "many": Aggregate(deceit, "count", tokens=32, over=3.5),
        "slow": Aggregate(deceit, "ema", tokens=16),
        "dense": Aggregate(deceit, "rolling_mean_max", tokens=64, rolling=4),
        "top": Aggregate(deceit, "topk_mean", tokens=64, k=4),
        "often": Aggregate(deceit, "min_evidence", tokens=1, k=1),
        "sure": Aggregate(deceit, "noisy_or", tokens=16, zero=1.0, one=12.6),
        "plane": Aggregate(pair, "max", "l2", tokens=4),
        "turn": Aggregate(pair, "value", "angle"),
        "both": Aggregate(pair, "value", "sum"),
        "either": Aggregate(pair, "value", "max"),
        "fiction.story": Aggregate(("claim",), "mean", tokens=64),
    }


def test_parts_of_a_maximum_are_numbers_that_remember_how_they_were_written(rules):
    thresholds = {
        each.name: (each.threshold, each.upper, each.written)
        for each in rules["lie_in_reasoning"].signals
        if each.written or each.upper is not None
    }
    assert thresholds == {
        "now": (5.6, None, "40% of max"),
        "peak": (4.2, None, "30% of max"),  # from the overlay
        "plane": (2.5, None, "50% of max"),  # of hypot(3, 4)
        "turn": (170.0, -170.0, ""),
        "both": (1.5, 3.5, "[1.5, 50% of max]"),  # of 3 + 4
        "either": (2.0, None, "50% of max"),  # of max(3, 4)
    }


def test_quantifiers_and_blocks_are_expanded(rules):
    n = Name
    assert rules["lie_in_reasoning"].detection == Or(
        (
            And(
                (
                    n("now"),
                    Or((n("peak"), Not(n("level")))),
                    AtLeast(2, (n("total"), n("many"), n("slow"), n("sure"))),
                    n("dense"),
                )
            ),
            And(
                (
                    And((n("top"), n("often"))),
                    n("fiction.story"),
                    Or((n("plane"), n("turn"), n("both"), n("either"))),
                )
            ),
        )
    )


def test_lists_stand_for_their_texts(rules):
    rule = rules["lie_in_reasoning"]
    assert rule.scope.tenants == ("tenant-a", "tenant-b", "other")
    assert rule.exceptions[0].tenants == ("tenant-a", "tenant-b")


def test_days_are_read_with_and_without_quotes(rules):
    expires = [each.expires for each in rules["lie_in_reasoning"].exceptions]
    assert expires == [date(2027, 3, 1), date(2027, 1, 31)]


def test_rest_of_a_rule_of_tokens(rules):
    rule = rules["lie_in_reasoning"]
    assert (rule.for_tokens, rule.keep_firing_for, rule.min_coverage) == (4, 32, 0.9)
    assert (rule.severity, rule.action, rule.emit) == ("medium", "stop", True)
    assert rule.limit == Limit("rule", 2, 3600)
    assert rule.max_per_request is None


def test_steps_without_a_phase_take_those_of_the_scope(rules):
    lie, said, story = Name("lie"), Name("said"), Name("fiction.story")
    assert rules["lie_then_claim"].detection == StepSequence(
        steps=(
            Step(And((lie, Not(story))), frozenset({Phase.REASONING})),
            Step(said, frozenset({Phase.ANSWER, Phase.TOOL_CALL})),
        ),
        within=2048,
        unless=Step(story, frozenset({Phase.ANSWER})),
    )
    assert rules["lie_then_claim"].max_per_request == 2


def test_correlations_are_counts_over_a_span_of_seconds(rules):
    assert [rules[name].detection for name in ("campaign", "many_clients", "together")] == [
        Correlation(
            type="event_count",
            rules=("lie_in_reasoning", "lie_then_claim"),
            group_by=("tenant", "model"),
            timespan_s=600,
            threshold=3,
        ),
        Correlation(
            type="value_count",
            rules=("campaign",),
            group_by=(),
            timespan_s=86_400,
            comparison="gt",
            threshold=3,
            field="client",
        ),
        Correlation(
            type="temporal_ordered",
            rules=("fiction", "many_clients"),
            group_by=("lora",),
            timespan_s=30,
            threshold=2,
        ),
    ]
    assert rules["campaign"].phases == frozenset()
    assert rules["campaign"].limit == Limit("group", 1, 86_400)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_byte_order_marks_and_line_ends_change_nothing(mark, line_end, rules, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_bytes(mark + COMPLETE.read_bytes().replace(b"\n", line_end))
    loaded = load_rules([path]).rules
    assert {rule.name: rule for rule in loaded} == rules
    assert [r.location.line for r in loaded] == [r.location.line for r in rules.values()]


def many_rules(number: int) -> str:
    """A file of rules with three signals each, every tenth of them changed by an overlay."""
    features = "".join(f"  f{i}: {{sae: {{path: s}}, index: {i}, max: 10}}\n" for i in range(64))
    rules = "".join(
        f"""  - id: 00000000-0000-4000-8000-{i:012d}
    name: rule_{i}
    title: Rule {i}
    status: test
    severity: low
    scope: {{phase: [reasoning], model: ["a*"]}}
    signals:
      a: {{feature: f{i % 64}, agg: max, window: 32 tokens, gte: {i % 90 + 1}% of max}}
      b: {{feature: f{(i + 1) % 64}, agg: count, over: 1.5, window: 64 tokens, gte: 3}}
      c: {{feature: f{(i + 7) % 64}, agg: mean, window: 8 tokens, lt: 2.0}}
    condition: {"2 of (a, b, c)" if i % 2 else "a and (b or not c)"}
    message: "{{rule.title}}: {{signal.a.value:.2f}}"
    tags: [harm.deception]
"""
        for i in range(number)
    )
    overlays = "".join(
        f"  - rule: rule_{i}\n    set: {{severity: high, signals.a.gte: 3.0}}\n"
        f"    add_exceptions: [{{name: x, when: {{tenant: [t]}}, reason: r}}]\n"
        for i in range(0, number, 10)
    )
    head = "version: 1\nruleset: {name: many, version: '1'}\n"
    return f"{head}features:\n{features}rules:\n{rules}overlays:\n{overlays}"


def test_a_thousand_rules_load_within_two_seconds(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(many_rules(1000))
    taken_s = []
    gc.freeze()  # what two thousand tests have left behind is not the loader's to look through
    for _ in range(3):  # the quickest: whatever else the machine does is not the loader's, either
        begin_s = process_time()
        assert len(load_rules([path]).rules) == 1000
        taken_s.append(process_time() - begin_s)
    gc.unfreeze()
    assert min(taken_s) < 2.0
