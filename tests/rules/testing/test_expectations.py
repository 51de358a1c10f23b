"""When a test passes, when it fails, and what it says."""

import pytest

from tests.rules.testing.suites import RULES, outcome, run

LIES = """\
  - name: t
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 0x3 3 3 0x9 3 3 0x9 3 3}}]
"""  # matches at 4 and 15, and at 26 over the limit
CAMPAIGN = """\
  - name: t
    requests:
      - {request: {tenant: a}, stream: [{phase: reasoning, features: {lie: 9}}]}
      - {request: {tenant: a}, stream: [{phase: reasoning, features: {lie: 0 9}}], advance: 1m}
"""


def indented(keys: str) -> str:
    return "".join(f"    {line}\n" for line in keys.splitlines())


@pytest.mark.parametrize(
    "expectations",
    [
        "expect: [{rule: lying, count: 2}]",
        "expect: [{rule: lying, count: 2, severity: high}]",
        "expect: [{rule: lying, at: [{phase: answer, token: 4}, {phase: answer, token: 15}]}]",
        "expect: [{rule: lying, count: 2, at: {phase: answer, token: 15}}]",
        "expect: [lying, lying]",
        "expect: [lying, {rule: lying, at: {phase: answer, token: 4}}]",
        "expect: [{rule: lying, count: 2, request: 0}]",
        "expect: [{rule: lying, count: 2}]\nexpect_limited: [{rule: lying, count: 1}]",
        "expect: [{rule: lying, count: 2}]\nexpect_limited: [{rule: lying}]",
        "expect: [lying, lying]\nexpect_suppressed: [{rule: lying, by: tester, count: 0}]",
        "expect: [{rule: lying, count: 2}]\nexpect_none: [block, again]",
        "mode: loose\nexpect_none: [again]",
    ],
)
def test_what_happens_as_expected_passes(tmp_path, expectations):
    assert outcome(tmp_path, LIES + indented(expectations)) == ("ok", [])


@pytest.mark.parametrize(
    ("expectations", "message"),
    [
        (
            "expect: [lying]",
            "expected 1 alert of lying, got 2: at answer token 4, at answer token 15",
        ),
        (
            "expect: [{rule: lying, count: 3}]",
            "expected 3 alerts of lying, got 2: at answer token 4, at answer token 15",
        ),
        (
            "expect: [lying, {rule: lying, at: {phase: answer, token: 5}}]",
            "expected 1 alert of lying at answer token 5, got 1 at answer token 15",
        ),
        (
            "expect: [{rule: lying, count: 2, severity: low}]",
            "expected 2 alerts of lying of severity low, got 2: "
            "at answer token 4, at answer token 15",
        ),
        (
            "mode: loose\nexpect: [lying]",
            "expected 1 alert of lying, got 2: at answer token 4, at answer token 15",
        ),
        (
            "mode: loose\nexpect_none: [lying]",
            "expected no alerts of lying, got 2: at answer token 4, at answer token 15",
        ),
        (
            "mode: loose\nexpect_limited: [{rule: lying, count: 2}]",
            "expected 2 limited matches of lying, got 1 at answer token 26",
        ),
        (
            "mode: loose\nexpect_suppressed: [{rule: lying, by: tester}]",
            "expected some matches of lying suppressed by tester, got none",
        ),
    ],
)
def test_what_happens_otherwise_fails_and_is_told(tmp_path, expectations, message):
    status, messages = outcome(tmp_path, LIES + indented(expectations))
    assert (status, messages) == ("failed", [message])


def test_an_alert_that_nothing_lists_fails_a_strict_test_where_its_name_is(tmp_path):
    (result,) = run(tmp_path, LIES)
    assert [report.failure.message for report in result.reports] == [
        "unexpected alert of lying at answer token 4",
        "unexpected alert of lying at answer token 15",
    ]
    assert {(r.failure.location.line, r.failure.location.column) for r in result.reports} == {
        (3, 11)
    }


def test_a_failed_expectation_is_located(tmp_path):
    (result,) = run(tmp_path, LIES + "    expect:\n      - {rule: lying, count: 3}\n")
    location = result.reports[0].failure.location
    assert (location.path.name, location.line, location.column) == ("small_test.yaml", 7, 9)


def test_a_known_gap_is_todo(tmp_path):
    test = LIES + "    expect: [{rule: lying, count: 3, todo: true}]\n"
    status, messages = outcome(tmp_path, test)
    assert status == "todo"
    assert len(messages) == 1


def test_a_known_false_positive_is_todo(tmp_path):
    test = LIES + "    expect_none: [{rule: lying, todo: true}]\n"
    assert outcome(tmp_path, test)[0] == "todo"


def test_a_gap_that_is_none_any_more_fails(tmp_path):
    test = LIES + "    expect: [{rule: lying, count: 2, todo: true}]\n"
    assert outcome(tmp_path, test) == (
        "failed",
        ["no known gap any more, 2 alerts of lying came as expected: remove `todo: true`"],
    )


def test_exceptions_suppress_until_the_day_they_expire(tmp_path):
    test = """\
  - name: t
    today: {day}
    request: {{model: good/one, tenant: tester}}
    stream: [{{phase: answer, features: {{lie: 3 3}}}}]
    {expects}
"""
    suppressed = "expect_suppressed: [{rule: lying, by: tester, count: 1}]"
    assert outcome(tmp_path, test.format(day="2026-06-30", expects=suppressed))[0] == "ok"
    assert outcome(tmp_path, test.format(day="2026-07-01", expects="expect: [lying]"))[0] == "ok"


def test_correlations_alert_in_the_request_that_completes_them(tmp_path):
    test = CAMPAIGN + "    expect: [{rule: again, request: 1}]\n"
    assert outcome(tmp_path, test) == ("ok", [])
    test = CAMPAIGN + "    expect: [{rule: again, request: 0}]\n"
    assert outcome(tmp_path, test) == (
        "failed",
        [
            "unexpected alert of again in request 1",
            "expected 1 alert of again in request 0, got none",
        ],
    )


def test_of_a_building_block_the_matches_are_expected_and_need_not_be_listed(tmp_path):
    test = CAMPAIGN + "    expect: [again, {rule: block, count: 2}]\n"
    assert outcome(tmp_path, test) == ("ok", [])
    test = CAMPAIGN + "    expect: [again]\n"
    assert outcome(tmp_path, test) == ("ok", [])
    test = CAMPAIGN + "    expect: [again]\n    expect_none: [block]\n"
    assert outcome(tmp_path, test) == (
        "failed",
        [
            "expected no alerts of block, got 2: "
            "at reasoning token 0 in request 0, at reasoning token 1 in request 1"
        ],
    )


def test_tokens_are_counted_within_their_phase(tmp_path):
    test = """\
  - name: t
    request: {model: good/one}
    stream:
      - {phase: answer, tokens: 3}
      - {phase: tool_call, tokens: 5}
      - {phase: answer, features: {lie: 0 3 3}}
    expect: [{rule: lying, at: {phase: answer, token: 5}}]
"""
    assert outcome(tmp_path, test) == ("ok", [])


def test_what_is_expected_to_be_silent_in_a_request_is_claimed_by_no_other_expectation(tmp_path):
    test = """\
  - name: t
    requests:
      - {request: {model: good/one}, stream: [{phase: answer, features: {lie: 3 3}}]}
      - {request: {model: good/one}, stream: [{phase: answer, features: {lie: 0 0}}]}
    expect: [lying]
    expect_none: [{rule: lying, request: %d}]
"""
    assert outcome(tmp_path, test % 1) == ("ok", [])
    assert outcome(tmp_path, test % 0) == (
        "failed",
        [
            "expected 1 alert of lying, got none",
            "expected no alerts of lying in request 0, got 1 at answer token 1 in request 0",
        ],
    )


CAREFUL = RULES.replace("    condition: lie and", "    min_coverage: 60%\n    condition: lie and")


@pytest.mark.parametrize(
    ("scores", "expectations", "messages"),
    [
        ("lie: 0 _, calm: 0 _", "expect_uncovered: [lying]", []),
        ("lie: 0 _, calm: 0 _", "expect_uncovered: [{rule: lying, request: 0}]", []),
        (
            "lie: 0 _, calm: 0 0",
            "expect_uncovered: [lying]",
            ["expected some uncovered requests of lying, got none"],
        ),
        ("lie: 0 _, calm: 0 _", "expect: []", []),
    ],
)
def test_a_request_of_which_too_little_was_seen_can_be_expected(
    tmp_path, scores, expectations, messages
):
    test = f"""\
  - name: t
    request: {{model: good/one}}
    stream: [{{phase: answer, features: {{{scores}}}}}]
    {expectations}
"""
    (result,) = run(tmp_path, test, CAREFUL)
    assert [report.failure.message for report in result.reports] == messages
    is_shown = expectations == "expect: []"
    assert [each.rule for each in result.uncovered] == (["lying"] if is_shown else [])
