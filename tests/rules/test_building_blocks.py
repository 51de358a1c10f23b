"""A building block lends its condition, and its signals with it."""

from pathlib import Path

import pytest

from saeguard.rules import load_rules
from saeguard.rules.conditions import And, AtLeast, Name, Not, Or
from saeguard.rules.model import StepSequence
from tests.rules.samples import findings

SIGNAL = "{feature: f, agg: value, gt: 1}"


def rule(number: int, name: str, condition: str, *signals: str, keys: str = "emit: false") -> str:
    return f"""
  - id: 00000000-0000-4000-8000-{number:012d}
    name: {name}
    title: {name}
    status: test
    severity: low
    {keys}
    signals: {{{", ".join(f"{signal}: {SIGNAL}" for signal in signals)}}}
    condition: {condition}
"""


def write(folder: Path, *rules: str) -> Path:
    path = folder / "rules.yaml"
    head = "version: 1\nruleset: {name: a, version: b}\nfeatures: {f: {sae: {path: s}, index: 0}}\n"
    path.write_text(f"{head}rules:{''.join(rules)}")
    return path


def test_blocks_of_blocks_are_put_in_and_their_signals_named_after_them(tmp_path):
    path = write(
        tmp_path,
        rule(1, "user", "x and not outer", "x", keys="emit: true"),
        rule(2, "outer", "2 of (y, z, inner)", "y", "z"),
        rule(3, "inner", "x or y", "x", "y"),
    )
    user, outer, _ = load_rules([path]).rules
    inner = Or((Name("inner.x"), Name("inner.y")))
    assert user.detection == And(
        (Name("x"), Not(AtLeast(2, (Name("outer.y"), Name("outer.z"), inner))))
    )
    names = ["x", "outer.y", "outer.z", "inner.x", "inner.y"]
    assert [signal.name for signal in user.signals] == names
    assert outer.detection == AtLeast(2, (Name("y"), Name("z"), inner))
    assert [signal.name for signal in outer.signals] == ["y", "z", "inner.x", "inner.y"]


def test_rule_may_consist_of_blocks_alone(tmp_path):
    path = write(tmp_path, rule(1, "user", "block", keys="emit: true"), rule(2, "block", "x", "x"))
    assert load_rules([path]).rules[0].detection == Name("block.x")


def test_steps_of_a_sequence_may_name_blocks(tmp_path):
    sequence = (
        rule(1, "user", "CUT", "x", keys="emit: true").split("    condition")[0]
        + "    sequence: {steps: [{when: x}, {when: block}], within: 9 tokens}\n"
    )
    (user, _) = load_rules([write(tmp_path, sequence, rule(2, "block", "y", "y"))]).rules
    assert isinstance(user.detection, StepSequence)
    assert [step.when for step in user.detection.steps] == [Name("x"), Name("block.y")]
    assert [signal.name for signal in user.signals] == ["x", "block.y"]


def test_message_shows_signals_of_blocks(tmp_path):
    text = rule(1, "user", "block", keys='message: "{signal.block.x.value} {signal.inner.y.token}"')
    path = write(tmp_path, text, rule(2, "block", "x and inner", "x"), rule(3, "inner", "y", "y"))
    placeholders = list(load_rules([path]).rules[0].message.placeholders())
    assert [each.path[1] for each in placeholders] == ["block.x", "inner.y"]


@pytest.mark.parametrize("keys", ["for: 2 tokens", "keep_firing_for: 2 tokens"])
def test_block_with_more_than_a_condition_is_not_lent(keys, tmp_path):
    path = write(
        tmp_path,
        rule(1, "user", "block", keys="emit: true"),
        rule(2, "block", "x", "x", keys=f"emit: false\n    {keys}"),
    )
    lost = f"the {keys.split(':')[0]} of building block 'block' would be lost"
    assert findings(path) == [f"12:16: condition: {lost}: it lends its condition only"]


@pytest.mark.parametrize(
    ("scope", "is_fine"),
    [
        ("scope: {phase: [answer]}", False),
        ("scope: {phase: [prompt]}", True),
    ],
)
def test_block_with_a_scope_of_its_own_must_share_it(scope, is_fine, tmp_path):
    path = write(
        tmp_path,
        rule(1, "user", "block", keys="scope: {phase: [prompt]}"),
        rule(2, "block", "x", "x", keys=f"emit: false\n    {scope}"),
    )
    if is_fine:
        assert len(load_rules([path]).rules) == 2
    else:
        assert "the scope of building block 'block' would be lost" in findings(path)[0]


def test_cycle_is_named_as_a_whole_and_once(tmp_path):
    path = write(
        tmp_path,
        rule(1, "user", "a", keys="emit: true"),
        rule(2, "a", "b and x", "x"),
        rule(3, "b", "x or c", "x"),
        rule(4, "c", "not a"),
        rule(5, "d", "d"),
    )
    assert findings(path) == [
        "21:16: condition: building blocks that stand for each other: a -> b -> c -> a",
        "48:16: condition: building blocks that stand for each other: d -> d",
    ]


def test_blocks_that_double_at_each_level_are_refused(tmp_path):
    rules = [
        rule(i, f"b{i}", f"b{i + 1} and b{i + 1}" if i < 40 else "x", *(["x"] if i == 40 else []))
        for i in range(41)
    ]
    found = findings(write(tmp_path, *rules))
    assert len(found) == 32  # 2 ** 8 names are fine, 2 ** 9 are too many
    assert "has 512 names in 10 levels; 500 in 50 are allowed" in found[-1]


def test_long_chain_of_blocks_is_refused(tmp_path):
    rules = [
        rule(i, f"b{i}", f"not b{i + 1}" if i < 2000 else "x", *(["x"] if i == 2000 else []))
        for i in range(2001)
    ]
    assert len(findings(write(tmp_path, *rules))) == 1951
