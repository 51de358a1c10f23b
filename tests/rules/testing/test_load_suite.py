"""Test files: what they may hold, and where each mistake is."""

import numpy as np
import pytest

from saeguard.rules import Phase, RuleErrors
from saeguard.rules.testing import Place, load_suite
from tests.rules.testing.suites import RULES, findings, suite_of, write_suite


def scores(folder, block, name="lie"):
    """What the request of a test with this one block holds of a feature."""
    (case,) = suite_of(folder, f"  - {{name: t, stream: [{block}]}}\n").cases
    (request,) = case.requests
    return request.scores[:, request.columns.index(name)].tolist()


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ("0x3 5", [0, 0, 0, 5]),
        ("0x3", [0, 0, 0]),  # which is the number 3 to YAML
        ('"0x3"', [0, 0, 0]),
        ("7", [7]),
        ("[0, 0x2, 5.5]", [0, 0, 0, 5.5]),
    ],
)
def test_a_series_is_read_as_it_is_written(tmp_path, series, expected):
    assert scores(tmp_path, f"{{phase: answer, features: {{lie: {series}}}}}") == expected


def test_a_feature_that_a_block_does_not_list_is_zero_there(tmp_path):
    block = "{phase: answer, features: {calm: 1 2 3}}"
    assert scores(tmp_path, block) == [0, 0, 0]
    assert scores(tmp_path, "{phase: answer, tokens: 2}") == [0, 0]


def test_a_feature_that_no_rule_reads_any_more_is_a_warning(tmp_path):
    block = "{phase: answer, features: {lie: 0x3, unused: 9x3}}"
    suite = suite_of(tmp_path, f"  - {{name: t, stream: [{block}]}}\n")
    (warning,) = suite.warnings
    assert (warning.line, warning.message) == (3, "no rule reads the feature 'unused'")


def test_blocks_follow_each_other(tmp_path):
    (case,) = suite_of(
        tmp_path,
        """\
  - name: t
    stream:
      - {phase: prompt, tokens: 2}
      - {phase: answer, features: {lie: 1 _}}
""",
    ).cases
    (request,) = case.requests
    assert request.phases.tolist() == [Phase.PROMPT, Phase.PROMPT, Phase.ANSWER, Phase.ANSWER]
    assert request.positions.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(
        request.scores[:, request.columns.index("lie")], [0, 0, 1, float("nan")]
    )


def test_time_moves_by_advance_from_the_day_of_the_test(tmp_path):
    block = "stream: [{phase: answer, tokens: 1}]"
    (case,) = suite_of(
        tmp_path,
        f"""\
  - name: t
    today: 1970-01-02
    requests:
      - {{{block}}}
      - {{{block}, advance: 11m, request: {{tenant: a}}}}
      - {{{block}, advance: 1h}}
""",
    ).cases
    day, minute = 86_400 * 10**9, 60 * 10**9
    assert [each.time_ns - day for each in case.requests] == [0, 11 * minute, 71 * minute]
    assert [each.context.tenant for each in case.requests] == [None, "a", None]


def test_places_may_be_one_or_several(tmp_path):
    (case,) = suite_of(
        tmp_path,
        """\
  - name: t
    stream: [{phase: answer, tokens: 9}]
    expect:
      - lying
      - {rule: lying, at: {phase: answer, token: 2}}
      - {rule: lying, at: [{phase: answer, token: 2}, {phase: answer, token: 5}]}
""",
    ).cases
    two, five = Place(Phase.ANSWER, 2), Place(Phase.ANSWER, 5)
    assert [each.places for each in case.expectations] == [(), (two,), (two, five)]
    assert [each.count for each in case.expectations] == [1, 1, 2]


def test_every_mistake_is_reported_with_its_place(tmp_path):
    assert findings(
        tmp_path,
        """\
  - name: shapes
    request: {model: a, tenat: b}
    stream: [{phase: answr, tokens: 0}]
    exepct: []
  - name: names
    stream: [{phase: answer, features: {lie: 5x2 a, clam: 0x3, unused: 0x3, calm: 0x4}}]
    expect:
      - lyng
      - {rule: lying, at: {phase: answer, token: 99}, count: 1}
      - {rule: again, at: {phase: answer, token: 0}}
      - {rule: lying, request: 1}
    expect_suppressed: [{rule: lying, by: testr}]
""",
    ) == [
        "4:25: unknown key 'tenat', did you mean 'tenant'?",
        "5:22: phase: expected 'system', 'prompt', 'reasoning', 'answer' or 'tool_call', "
        "got the text 'answr', did you mean 'answer'?",
        "5:37: tokens: must be greater than or equal to 1",
        "6:5: unknown key 'exepct', did you mean 'expect'?",
        "8:50: 'a' is not like 5, 0x40, 1+0.5x10, _ or _x3",
        "8:53: unknown feature 'clam', did you mean 'calm'?",
        "8:83: calm: a series of 4 tokens, but 'clam' has 3",
        "10:9: unknown rule 'lyng', did you mean 'lying'?",
        "11:27: answer has 3 tokens, counted from 0",
        "12:27: 'again' is a correlation: it has no token",
        "13:32: no request 1; the last one is 0",
        "14:43: 'lying' has no exception 'testr', did you mean 'tester'?",
    ]


@pytest.mark.parametrize(
    ("test", "finding"),
    [
        ("stream: [{phase: answer, features: {lie: []}}]", "4:46: an empty series"),
        ("stream: [{phase: answer}]", "4:14: a block needs `features` or `tokens`"),
        (
            "stream: [{phase: answer, tokens: 3, features: {lie: 5}}]",
            "4:57: lie: a series of 1 tokens, but 'tokens' has 3",
        ),
        (
            "stream: [{phase: answer, features: {lie: {a: 1}}}]",
            "4:46: expected a series, such as 0x40 5 5 7",
        ),
        ("mode: loose", "3:5: a test has a stream, requests or a recording; this has none of them"),
        (
            "{stream: [{phase: answer, tokens: 1}], mode: loose}",
            "3:5: a loose test that expects nothing cannot fail",
        ),
    ],
)
def test_a_mistake_in_one_test_has_its_place(tmp_path, test, finding):
    if test.startswith("{"):
        tests = f"  - {{name: t,\n    {test[1:]}\n"
    else:
        tests = f"  - name: t\n    {test}\n"
    assert finding in findings(tmp_path, tests)


def test_a_stream_too_long_to_be_meant_is_refused(tmp_path):
    blocks = ", ".join(["{phase: answer, tokens: 60000}"] * 2)
    assert findings(tmp_path, f"  - {{name: t, stream: [{blocks}]}}\n") == [
        "3:56: a stream of more than 100,000 tokens"
    ]
    assert findings(tmp_path, "  - {name: t, stream: [{phase: answer, tokens: 999999999999}]}\n")


@pytest.mark.parametrize("times", ["today: 0001-01-01", "today: 1969-12-31", "today: 9001-01-01"])
def test_time_stays_within_what_can_be_reckoned_with(tmp_path, times):
    test = f"  - {{name: t, {times}, stream: [{{phase: answer, tokens: 1}}]}}\n"
    assert findings(tmp_path, test) == ["3:5: its time is not within 1970 to 2262"]


def test_time_does_not_pass_without_end(tmp_path):
    turn = "{stream: [{phase: answer, tokens: 1}], advance: 99999d}"
    test = f"  - {{name: t, requests: [{', '.join([turn] * 60)}]}}\n"
    found = findings(tmp_path, test)
    assert found
    assert all("its time is not within" in finding for finding in found)


def test_names_of_tests_are_unique(tmp_path):
    test = "  - {name: t, stream: [{phase: answer, tokens: 1}]}\n"
    assert findings(tmp_path, test + test) == [
        "3:12: 2 tests are called 't'",
        "4:12: 2 tests are called 't'",
    ]


def test_mistakes_of_the_rules_are_reported_too(tmp_path):
    test = "  - {name: t, stream: [{phase: answer, tokens: 1}]}\n"
    rules = RULES.replace("condition: high", "condition: hihg")
    assert any("hihg" in finding for finding in findings(tmp_path, test, rules))


def test_rules_that_are_not_there_are_an_error_of_the_test_file(tmp_path):
    path = write_suite(tmp_path, "  - {name: t, stream: [{phase: answer, tokens: 1}]}\n")
    (tmp_path / "rules.yaml").unlink()
    with pytest.raises(RuleErrors, match=r"small_test.yaml:1:9: no such file: .*rules.yaml"):
        load_suite(path)


def test_rules_may_lie_in_another_folder(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "tests").mkdir()
    path = tmp_path / "tests" / "a_test.yaml"
    path.write_text(
        "rules: [../rules.yaml]\ntests: [{name: t, stream: [{phase: answer, tokens: 1}]}]"
    )
    rule, *_ = load_suite(path).ruleset.rules
    assert rule.location.path == tmp_path / "rules.yaml"


@pytest.mark.parametrize(
    ("alert", "silence"),
    [
        ("lying", "lying"),
        ("{rule: lying, request: 0}", "lying"),
        ("lying", "{rule: lying, request: 0}"),
        ("{rule: lying, count: 2}", "{rule: lying, request: 0}"),
    ],
)
def test_an_alert_cannot_be_expected_where_none_is(tmp_path, alert, silence):
    test = f"""\
  - name: t
    stream: [{{phase: answer, features: {{lie: 3 3}}}}]
    expect: [{alert}]
    expect_none:
      - {silence}
"""
    assert findings(tmp_path, test) == [
        "7:9: contradiction: no alert of 'lying', but line 5 expects an alert of it there"
    ]


@pytest.mark.parametrize("word", ["yes", "on", '"true"'])
def test_a_known_gap_is_marked_with_true_and_no_other_word(tmp_path, word):
    test = f"""\
  - name: t
    stream: [{{phase: answer, tokens: 3}}]
    expect: [{{rule: lying, todo: {word}}}]
"""
    (finding,) = findings(tmp_path, test)
    assert finding.startswith("5:34: todo: ")
