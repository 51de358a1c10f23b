"""Messages can show what is on the list, formatted, and can reach nothing else."""

import pytest

from saeguard.rules.template import parse_template

VALUES = {
    ("rule", "title"): "Lie",
    ("signal", "s", "value"): 4.25,
    ("signal", "s", "position"): 7,
    ("signal", "s", "token"): "a\n",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{rule.title}: {signal.s.value:.1f} at {signal.s.position}", "Lie: 4.2 at 7"),
        ("{signal.s.value}", "4.25"),
        ("{signal.s.token!r}", r"'a\n'"),
        ("{signal.s.token!r:>6}", r" 'a\n'"),
        ("{{{rule.title}}}", "{Lie}"),
        ("{signal.s.position:03d}", "007"),
    ],
)
def test_placeholders_are_filled_in(text, expected):
    template, mistakes = parse_template(text)
    assert not mistakes
    assert template.render(VALUES.__getitem__) == expected


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("a {rule.__class__}", 2, "unknown placeholder"),
        ("{rule.title.upper}", 0, "unknown placeholder"),
        ("{signal.s.value.real}", 0, "unknown placeholder"),
        ("{signal[s].value}", 0, "unknown placeholder"),
        ("{0}", 0, "unknown placeholder"),
        ("{}", 0, "unknown placeholder"),
        ("{rule.title!s}", 0, "unknown placeholder"),
        ("{request.headers}", 0, "unknown placeholder"),
        ("{signal.s.value:d}", 0, "bad format spec"),
        ("{rule.title:.2f}", 0, "bad format spec"),
        ("{signal.s.value:1000000000}", 0, "bad format spec"),
        ("{signal.s.value:{rule.title}}", 0, "unmatched '{'"),
        ("100}", 3, "unmatched '}'"),
    ],
)
def test_anything_else_is_a_located_mistake(text, offset, message):
    _, mistakes = parse_template(text)
    assert mistakes[0].offset == offset
    assert mistakes[0].message.startswith(message)
