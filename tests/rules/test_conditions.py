"""Conditions bind as in Python, point at mistakes, and compile to array operations."""

import itertools
import re

import numpy as np
import pytest

from saeguard.rules.conditions import (
    And,
    AtLeast,
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
        ("any_a and ofb", And((Name("any_a"), Name("ofb")))),
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
        ("not " * 50 + "a", 0, "nested deeper than 50 levels"),
        ("(" * 51 + "a" + ")" * 51, 0, "nested deeper than 50 levels"),
        ("2 of", 4, "it ends too early"),
        ("a and 3 of (a, b)", 6, "3 of 2 signal(s) is not possible"),
        ("0 of (a, b)", 0, "0 of 2 signal(s) is not possible"),
        ("9" * 900 + " of (a, b)", 0, "is not possible"),
        ("any of ()", 8, "unexpected ')'"),
        ("any of (a b)", 10, "unexpected 'b'"),
        ("all a", 4, "unexpected 'a'"),
        ("2 of not a", 5, "unexpected 'not'"),
        ("x_*", 0, "unexpected 'x_*'"),
        ("a or any of (b, y_*)", 16, "no signal matches 'y_*'"),
        ("any of " + "*" * 900, 7, "more than 4 stars"),
    ],
)
def test_mistakes_are_located(text, offset, message):
    with pytest.raises(ConditionError, match=re.escape(message)) as caught:
        parse_condition(text, ["x_1", "x_2"])
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("any of (a, b)", Or((Name("a"), Name("b")))),
        ("1 of (a, b)", Or((Name("a"), Name("b")))),
        ("all of (a, b)", And((Name("a"), Name("b")))),
        ("2 of (a, b)", And((Name("a"), Name("b")))),
        ("2 of (a, b, x_2)", AtLeast(2, (Name("a"), Name("b"), Name("x_2")))),
        ("any of a", Name("a")),
        ("any of x_*", Or((Name("x_1"), Name("x_2")))),
        ("2 of (x_2, a, x_*)", AtLeast(2, (Name("x_2"), Name("a"), Name("x_1")))),
        ("not all of x_*", Not(And((Name("x_1"), Name("x_2"))))),
        (
            "2 of (a, b, *1) and c",
            And((AtLeast(2, (Name("a"), Name("b"), Name("x_1"))), Name("c"))),
        ),
    ],
)
def test_quantifiers_stand_for_the_names_they_list_each_once(text, expected):
    assert parse_condition(text, ["x_1", "x_2"]) == expected


def test_names_of_a_glob_are_located_at_the_glob():
    names = names_in(parse_condition("a or any of (b, x_*)", ["x_1", "x_2"]))
    assert [name.offset for name in names] == [0, 13, 16, 16]


def test_names_are_listed_with_their_offsets():
    names = list(names_in(parse_condition("a or (not bc and a)")))
    assert [(name.name, name.offset) for name in names] == [("a", 0), ("bc", 10), ("a", 17)]


@pytest.mark.parametrize("count", range(1, 5))
def test_at_least_counts_true_operands(count):
    combinations = np.array(list(itertools.product([False, True], repeat=4))).T
    operands = (Name("a"), Not(Name("b")), Or((Name("c"), Name("d"))), Name("d"))
    rows = {"a": 0, "b": 1, "c": 2, "d": 3}
    truth = compile_condition(AtLeast(count, operands), rows)(combinations)
    a, b, c, d = combinations.tolist()
    assert truth.tolist() == [
        p + (not q) + (r or s) + s >= count for p, q, r, s in zip(a, b, c, d, strict=True)
    ]
    assert truth.dtype == np.bool_


@pytest.mark.parametrize("text", ["a", "not a", "a and b or not c", "not (a or b) and (c or a)"])
def test_compiled_condition_agrees_with_python_on_every_combination(text):
    combinations = list(itertools.product([False, True], repeat=3))
    holds = np.array(combinations).T
    truth = compile_condition(parse_condition(text), {"a": 0, "b": 1, "c": 2})(holds)
    expected = [eval(text, {}, dict(zip("abc", each, strict=True))) for each in combinations]
    assert truth.tolist() == expected


def test_longest_condition_is_still_evaluated():
    condition = parse_condition("not " * 49 + "a")
    assert compile_condition(condition, {"a": 0})(np.array([[True]])).tolist() == [False]


def test_widest_condition_is_still_evaluated():
    names = [f"s{i}" for i in range(2000)]
    condition = parse_condition("all of s* and not 1999 of s*", names)
    holds = np.ones((2000, 3), np.bool_)
    holds[0, 1] = False
    holds[:2, 2] = False
    predicate = compile_condition(condition, {name: row for row, name in enumerate(names)})
    assert predicate(holds).tolist() == [False, False, False]
    assert predicate(~holds).tolist() == [False, False, False]
