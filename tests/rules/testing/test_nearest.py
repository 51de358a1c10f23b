"""What is said about an alert that did not come."""

import pytest

from tests.rules.testing.suites import RULES, run


def notes(folder, test, rules=RULES):
    (result,) = run(folder, test, rules)
    return [note for report in result.reports for note in report.notes]


def one(features="lie: 3", request="model: good/one", rule="lying", phase="answer"):
    return f"""\
  - name: t
    request: {{{request}}}
    stream: [{{phase: {phase}, features: {{{features}}}}}]
    expect: [{rule}]
"""


def test_signals_that_were_never_true_tell_how_near_they_came(tmp_path):
    assert notes(tmp_path, one("lie: 3 1 1 1 3")) == [
        "signal lie was never true: its largest value was 1, it needs >= 2"
    ]


@pytest.mark.parametrize(
    ("signal", "series", "said"),
    [
        (
            "agg: max, window: 2 tokens, gte: 5.0",
            "1 4.75 2",
            "largest value was 4.75, it needs >= 5",
        ),
        ("agg: value, gte: 50% of max", "1 2", "value was 2, it needs >= 4, 50% of max"),
        ("agg: value, gt: 5.0", "5 1", "largest value was 5, it needs > 5"),
        ("agg: value, lt: -2", "1 -1.5 3", "smallest value was -1.5, it needs < -2"),
        (
            "agg: ema, half_life: 1 token, gte: 5",
            "1+1x4",
            "largest value was 3.0625, it needs >= 5",
        ),
        ("agg: value, between: [2, 3]", "1 4", "never true: it needs 2 to 3"),
        ("agg: value, gte: 1", "_x3", "nothing was observed in answer; it needs >= 1"),
    ],
)
def test_the_nearest_value_is_found_for_any_aggregate(tmp_path, signal, series, said):
    rules = RULES.replace("agg: count, over: 2.0, window: 4 tokens, gte: 2", signal)
    rules = rules.replace("index: 1}", "index: 1, max: 8.0}")
    (note,) = notes(tmp_path, one(f"lie: {series}"), rules)
    assert note.startswith("signal lie was never true")
    assert note.endswith(said)


def test_a_signal_that_should_have_been_false(tmp_path):
    assert notes(tmp_path, one("lie: 3 3, calm: 2 2")) == [
        "signal calm was never false, as it should be"
    ]


def test_signals_that_were_never_right_together(tmp_path):
    assert notes(tmp_path, one("lie: 0 0 3 3 0x4, calm: 0 4 4x6")) == [
        "each signal was as it should be, but never together"
    ]


def test_a_condition_that_did_not_last(tmp_path):
    rules = RULES.replace("not calm\n", "not calm\n    for: 6 tokens\n")
    assert notes(tmp_path, one("lie: 3 3 0x9"), rules) == [
        "it held for 3 tokens in a row at most, it needs 6"
    ]


def test_a_request_that_the_rule_does_not_look_at(tmp_path):
    assert notes(tmp_path, one("lie: 3 3", "model: bad/one, tenant: a")) == [
        "the rule's scope does not admit model bad/one, tenant a, lora -"
    ]


def test_a_phase_that_the_rule_does_not_look_at(tmp_path):
    assert notes(tmp_path, one("lie: 3 3", phase="prompt")) == ["no token is in its phases: answer"]


def test_matches_that_became_no_alerts(tmp_path):
    assert notes(tmp_path, one("lie: 3 3", "model: good/one, tenant: tester")) == [
        "suppressed by tester at answer token 1"
    ]
    rules = RULES.replace("limit: {per: request, max: 2}", "limit: {per: request, max: 1}")
    test = one("lie: 3 3 0x9 3 3", rule="{rule: lying, count: 2}")
    assert notes(tmp_path, test, rules) == ["over the rule's limit at answer token 12"]


def test_a_correlation_tells_what_its_rules_did(tmp_path):
    test = """\
  - name: t
    requests:
      - {stream: [{phase: reasoning, features: {lie: 9}}]}
      - {stream: [{phase: reasoning, features: {lie: 9}}], advance: 11m}
    expect: [again]
"""
    assert notes(tmp_path, test) == ["matches of block: 2 (in request 0, 1)"]


def test_steps_that_came_in_the_wrong_order(tmp_path):
    rules = RULES.replace(
        "condition: lie and not calm",
        "sequence: {steps: [{when: lie}, {when: calm}], within: 9 tokens}",
    )
    assert notes(tmp_path, one("lie: 0x6 3 3, calm: 4x4 0x4"), rules) == [
        "each signal was as it should be, but not in this order or not soon enough"
    ]


def test_a_request_of_which_too_little_was_seen_has_its_signals_explained_too(tmp_path):
    rules = RULES.replace("    condition: lie and", "    min_coverage: 60%\n    condition: lie and")
    test = """\
  - name: t
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 0 _, calm: 0 _}}]
    expect: [lying]
"""
    (result,) = run(tmp_path, test, rules)
    (report,) = result.reports
    assert any(note.startswith("signal lie was never true") for note in report.notes)
