"""Conditions bind as in Python, point at mistakes, and compile to array operations."""

import itertools
import re

import numpy as np
import pytest

from saeguard.rules.conditions import (
    And,
    ConditionError,
    Name,
    Not,
    Or,
    compile_condition,
    names_in,
    parse_condition,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", Name("a")),
        ("a and b and c", And((Name("a"), Name("b"), Name("c")))),
        ("a or b and c", Or((Name("a"), And((Name("b"), Name("c")))))),
        ("(a or b) and c", And((Or((Name("a"), Name("b"))), Name("c")))),
        ("not a and b", And((Not(Name("a")), Name("b")))),
        ("not (a and b)", Not(And((Name("a"), Name("b"))))),
        ("not not a", Not(Not(Name("a")))),
        ("nota and order", And((Name("nota"), Name("order")))),
        ("  a\n and\tb ", And((Name("a"), Name("b")))),
    ],
)
def test_and_binds_tighter_than_or_and_not_tighter_than_and(text, expected):
    assert parse_condition(text) == expected


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("a andd b", 2, "unexpected 'andd'"),
        ("a and and b", 6, "unexpected 'and'"),
        ("a > 3", 2, "unexpected '>'"),
        ("a b", 2, "unexpected 'b'"),
        ("(a", 2, "it ends too early"),
        ("a)", 1, "unexpected ')'"),
        ("a and ", 6, "it ends too early"),
        ("  ", 2, "it ends too early"),
        ("A", 0, "unexpected 'A'"),
        ("not " * 300 + "a", 0, "longer than 1000 characters"),
    ],
)
def test_mistakes_are_located(text, offset, message):
    with pytest.raises(ConditionError, match=re.escape(message)) as caught:
        parse_condition(text)
    assert caught.value.offset == offset


def test_names_are_listed_with_their_offsets():
    names = list(names_in(parse_condition("a or (not bc and a)")))
    assert [(name.name, name.offset) for name in names] == [("a", 0), ("bc", 10), ("a", 17)]


@pytest.mark.parametrize("text", ["a", "not a", "a and b or not c", "not (a or b) and (c or a)"])
def test_compiled_condition_agrees_with_python_on_every_combination(text):
    combinations = list(itertools.product([False, True], repeat=3))
    holds = np.array(combinations).T
    truth = compile_condition(parse_condition(text), {"a": 0, "b": 1, "c": 2})(holds)
    expected = [eval(text, {}, dict(zip("abc", each, strict=True))) for each in combinations]
    assert truth.tolist() == expected


def test_longest_condition_is_still_evaluated():
    condition = parse_condition("not " * 249 + "a")
    assert compile_condition(condition, {"a": 0})(np.array([[True]])).tolist() == [False]
