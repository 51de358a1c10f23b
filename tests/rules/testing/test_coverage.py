"""What of the rules the tests have seen happen."""

from saeguard.rules.testing import Coverage, measure_coverage, run_suite
from tests.rules.testing.suites import RULES, suite_of

EVERYTHING = """\
  - name: lying
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 0 3 3, calm: 0x3}}]
    expect: [lying]
  - name: calm
    request: {model: good/one}
    stream: [{phase: answer, features: {lie: 0 3 3, calm: 5x3}}]
  - name: tester
    request: {model: good/one, tenant: tester}
    stream: [{phase: answer, features: {lie: 3 3}}]
    expect_suppressed: [{rule: lying, by: tester}]
  - name: again
    requests:
      - {stream: [{phase: reasoning, features: {lie: 0 9}}]}
      - {stream: [{phase: reasoning, features: {lie: 9}}]}
    expect: [again]
"""


def coverage(folder, tests, rules=RULES) -> Coverage:
    suite = suite_of(folder, tests, rules)
    return measure_coverage(suite, list(run_suite(suite)))


def test_tests_can_cover_everything(tmp_path):
    measured = coverage(tmp_path, EVERYTHING)
    assert (measured.missing, measured.share, len(measured.items)) == ([], 1.0, 10)


def test_what_was_not_seen_is_listed_with_its_place(tmp_path):
    quiet = "  - {name: t, request: {model: good/a}, stream: [{phase: answer, tokens: 3}]}\n"
    measured = coverage(tmp_path, quiet)
    assert [f"{i.location.line}:{i.location.column}: {i}" for i in measured.missing] == [
        "8:5: lying never alerted",
        "8:5: lying exception tester was never used",
        "15:7: lying signal lie was never true",
        "16:7: lying signal calm was never true",
        "20:5: block never matched",
        "27:15: block signal high was never false",
        "27:15: block signal high was never true",
        "29:5: again never alerted",
    ]
    assert measured.share == 0.2


def test_what_happens_outside_of_the_scope_of_a_rule_is_not_seen(tmp_path):
    other = EVERYTHING.replace("good/one", "bad/one")
    missing = [str(item) for item in coverage(tmp_path, other.replace("lying]", "]")).missing]
    assert "lying signal lie was never true" in missing
    assert "lying signal lie was never false" in missing


def test_a_step_sees_a_signal_only_in_its_phases(tmp_path):
    rules = RULES.replace(
        "condition: lie and not calm",
        "sequence: {steps: [{when: lie, phase: [reasoning]}, {when: calm}], within: 9 tokens}",
    )
    test = """\
  - name: t
    request: {model: good/one}
    mode: loose
    stream:
      - {phase: reasoning, features: {calm: 0 9 9}}
      - {phase: answer, features: {lie: 9 9 9}}
    expect_none: [again]
"""
    missing = [str(item) for item in coverage(tmp_path, test, rules).missing]
    assert "lying signal lie was never true" in missing
    assert "lying signal calm was never true" in missing
    assert "lying signal lie was never false" not in missing


def test_a_signal_of_a_building_block_counts_once(tmp_path):
    rules = RULES.replace("condition: lie and not calm", "condition: lie and not calm or block")
    rules = rules.replace("    scope: {phase: [reasoning]}\n", "")  # a block that is named has none
    subjects = {item.subject for item in coverage(tmp_path, EVERYTHING, rules).items}
    assert subjects == {"signal lie", "signal calm", "signal high", "exception tester", ""}


def test_a_signal_of_a_building_block_is_seen_in_any_rule_that_names_the_block(tmp_path):
    rules = RULES.replace("condition: lie and not calm", "condition: lie and not calm or block")
    rules = rules.replace("    scope: {phase: [reasoning]}\n", "").replace(
        "[answer]", "[tool_call]"
    )
    test = """\
  - name: t
    request: {model: good/one}
    stream: [{phase: tool_call, features: {lie: 9}}]
    expect: [lying]
"""
    missing = [str(item) for item in coverage(tmp_path, test, rules).missing]
    assert "block signal high was never true" not in missing
    assert "block signal high was never false" in missing


def test_files_that_test_the_same_rules_add_up(tmp_path):
    first, *rest = EVERYTHING.split("  - name: ")[1:]
    one = coverage(tmp_path, f"  - name: {first}")
    others = coverage(tmp_path, "".join(f"  - name: {test}" for test in rest))
    assert one.missing
    assert others.missing
    assert (one | others).missing == []
