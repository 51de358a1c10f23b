"""Where remarks stand, and the comments that silence them."""

import pytest

from tests.rules.linting import lint

RULES = """\
version: 1
ruleset: {name: set, version: "1"}
features:
  lying: {sae: {path: sae}, index: 1}
  idle: {probe: {path: p}}
rules:
  - id: 00000000-0000-0000-0000-000000000001
    name: lie
    title: A lie
    status: deprecated
    severity: low
    signals:
      s: {feature: lying, agg: mean, window: 8 tokens, lt: 0}
    condition: s
    message: "{signal.s.value}"
    falsepositives: [fiction]
"""


def lint_text(folder, *edits):
    """`line:column lint` of what is not silenced, and the reasons for what is."""
    text = RULES
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "rules.yaml"
    path.write_text(text)
    found = lint(path)
    shown = [
        f"{each.location.line}:{each.location.column} {each.lint}"
        for each in found
        if each.reason is None
    ]
    return shown, [each.reason for each in found if each.reason is not None]


def test_remarks_stand_where_the_rule_the_signal_or_the_feature_is_written(tmp_path):
    shown, silenced = lint_text(tmp_path)
    assert shown == ["5:3 unused-feature", "7:5 deprecated", "13:7 never-true"]
    assert silenced == []


FEATURE, RULE, SIGNAL = "  idle: {probe: {path: p}}", "000000001\n", "lt: 0}\n"
IGNORES = {
    "on a feature's line": (FEATURE, f"{FEATURE}  # saeguard: ignore[unused-feature] for later"),
    "alone on the line above": (
        FEATURE,
        f"  # saeguard: ignore[unused-feature] for later\n{FEATURE}",
    ),
    "on a signal's line": (SIGNAL, "lt: 0}  # saeguard: ignore[never-true] for later\n"),
    "for a signal, on its rule's line": (
        RULE,
        "000000001  # saeguard: ignore[never-true] for later\n",
    ),
    "for one of several": (RULE, "000000001  # saeguard: ignore[deprecated] for later\n"),
}


@pytest.mark.parametrize("edit", IGNORES.values(), ids=IGNORES)
def test_a_comment_silences_one_remark_and_is_kept_as_its_reason(edit, tmp_path):
    shown, silenced = lint_text(tmp_path, edit)
    assert len(shown) == 2
    assert silenced == ["for later"]


def test_one_comment_can_silence_several_lints(tmp_path):
    shown, silenced = lint_text(
        tmp_path, (RULE, "000000001  # saeguard: ignore[deprecated, never-true] both\n")
    )
    assert shown == ["5:3 unused-feature"]
    assert silenced == ["both", "both"]


BAD_IGNORES = {
    "without a reason": (
        "ignore[deprecated]",
        "ignore needs a reason after the brackets; until then it silences nothing",
    ),
    "without a lint": (
        "ignore for later",
        "ignore needs the names of the lints: ignore[single-token] and a reason",
    ),
    "of an unknown lint": (
        "ignore[depricated] for later",
        "ignore names an unknown lint 'depricated', did you mean 'deprecated'?",
    ),
    "of nothing": (
        "ignore[single-token] for later",
        "nothing here is silenced by ignore[single-token]; remove it",
    ),
}


@pytest.mark.parametrize(("comment", "expected"), BAD_IGNORES.values(), ids=BAD_IGNORES)
def test_a_comment_that_does_not_silence_is_itself_a_remark(comment, expected, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES.replace(RULE, f"000000001  # saeguard: {comment}\n", 1))
    found = [each for each in lint(path) if each.lint == "bad-ignore"]
    assert [each.message for each in found] == [expected]
    assert [each.location.line for each in found] == [7]
    assert "deprecated" in [each.lint for each in lint(path) if each.reason is None]
