"""Compiled, the engine does what it does with NumPy alone, and stays within its arrays."""

import shutil
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saeguard.rules import Engine, Phase
from saeguard.rules.conditions import And, AtLeast, Name, Not, Or
from saeguard.rules.engine.blocks import Block
from saeguard.rules.engine.kernels import COMPILED, NUMPY
from saeguard.rules.engine.predicates import Predicate
from saeguard.rules.model import Aggregate
from tests.rules.samples import one_rule

needs_compiled = pytest.mark.skipif(COMPILED is None, reason="the extension was not built")
LONGEST = 300
AGGREGATES = [
    Aggregate(("f",), "value"),
    *(
        Aggregate(("f",), kind, tokens=n)
        for kind in ("max", "mean", "sum")
        for n in (1, 7, LONGEST)
    ),
    *(Aggregate(("f",), "count", tokens=n, over=0.1) for n in (1, 30)),
    *(Aggregate(("f",), "topk_mean", tokens=90, k=k) for k in (1, 5, 90)),
    *(Aggregate(("f",), "min_evidence", tokens=90, k=k) for k in (1, 5, 90)),
    *(Aggregate(("f",), "noisy_or", tokens=9, zero=zero, one=0.9) for zero in (-1.0, 0.5, 0.9)),
    *(Aggregate(("f",), "rolling_mean_max", tokens=40, rolling=n) for n in (1, 6, 200)),
]


@pytest.mark.skipif(
    not (shutil.which("cc") and Path(sysconfig.get_path("include"), "Python.h").exists()),
    reason="there is no C compiler, or nothing to compile against",
)
def test_the_extension_is_built_where_there_is_a_compiler():
    assert COMPILED is not None, "build it again: pip install -e . --no-deps"


@pytest.mark.usefixtures("kernels")
def test_an_engine_tells_what_runs_it(tmp_path, kernels):
    assert Engine(one_rule(tmp_path), ["a", "b"]).kernels == kernels.name


def blocks(rng, num_slots, num_columns):
    """Pieces of some streams, one or many tokens each, with holes and infinities.

    Scores are multiples of 1/64, of which sums are exact in any order.
    """
    next_tokens = np.zeros(num_slots, np.int64)
    for longest in (1, 40, 1, 1, 700, 5, 1):
        slots = rng.permutation(num_slots)[: rng.integers(1, num_slots + 1)]
        lengths = rng.integers(1, longest + 1, len(slots))
        shape = lengths.sum(), num_columns
        scores = (rng.standard_t(2, shape) * 64).round().astype(np.float32) / 64
        scores[rng.random(shape) < 0.1] = np.nan
        scores[rng.random(shape) < 0.001] = np.inf
        first = next_tokens[slots]
        next_tokens[slots] += lengths
        yield Block.of(slots, np.zeros_like(slots), first, lengths, scores, np.arange(len(scores)))


@needs_compiled
@pytest.mark.parametrize("seed", range(5))
def test_windows_have_the_same_values(seed):
    rng = np.random.default_rng(seed)
    columns = rng.integers(0, 3, len(AGGREGATES))
    both = [kernels.windowed(AGGREGATES, columns, 3) for kernels in (COMPILED, NUMPY)]
    for windowed in both:
        windowed.history.grow(8)
    for block in blocks(rng, 8, 3):
        if block.is_one_each:
            [windowed.remember(block) for windowed in both]
        which = rng.integers(0, len(AGGREGATES), 200)
        rows = rng.integers(0, block.num_rows, 200)
        with np.errstate(all="ignore"):
            compiled, expected = (windowed.values(block, which, rows) for windowed in both)
        np.testing.assert_array_equal(compiled, expected)
        if not block.is_one_each:
            [windowed.remember(block) for windowed in both]


@needs_compiled
@pytest.mark.parametrize(
    "change",
    [
        {"slots": np.array([0, 8])},
        {"slots": np.array([-1, 0])},
        {"starts": np.array([0, 1, 4])},
        {"starts": np.array([0, 5, 3])},
        {"starts": np.array([0, 3])},
        {"scores": np.zeros((3, 2), np.float32)},
        {"scores": np.zeros((2, 3), np.float32)},
    ],
    ids=str,
)
def test_a_block_that_reaches_beyond_its_arrays_is_refused(change):
    slots, lengths = np.array([0, 1]), np.array([1, 2])
    scores = np.zeros((3, 3), np.float32)
    good = Block.of(slots, slots * 0, slots * 0, lengths, scores, np.arange(3))
    averages = COMPILED.averages([2], [8], 3)
    windowed = COMPILED.windowed(AGGREGATES[:1], np.array([2]), 3)
    averages.grow(8)
    windowed.history.grow(8)
    averages.observe(good, False)
    for observe in (lambda block: averages.observe(block, False), windowed.remember):
        with pytest.raises(IndexError):
            observe(replace(good, **change))


@needs_compiled
@pytest.mark.parametrize(("test", "row"), [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_window_that_does_not_exist_is_refused(test, row):
    zero = np.array([0])
    block = Block.of(zero, zero, zero, zero + 1, np.zeros((1, 1), np.float32), zero)
    windowed = COMPILED.windowed(AGGREGATES[:1], zero, 1)
    windowed.history.grow(1)
    with pytest.raises(IndexError):
        windowed.values(block, np.array([test]), np.array([row]))


@needs_compiled
def test_predicates_are_possible_in_the_same_places():
    a, b, c, d = (Name(name) for name in "abcd")
    conditions = [
        a,
        And((a, b)),
        Or((a, c)),
        Not(d),
        And((Or((a, b)), Or((c, d)))),
        Not(And((a, d))),
    ]
    conditions.append(AtLeast(2, (a, b, c)))
    rows = {"a": 0, "b": 1, "c": 2, "d": 3}
    predicates = [Predicate(0, 0, each, frozenset(Phase), rows) for each in conditions]
    both = [kernels.predicates(predicates, {0, 1, 2}, {1}) for kernels in (COMPILED, NUMPY)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = np.asfortranarray(rng.random((5, 30)) < 0.3)
        table[-1] = False
        compiled, expected = (each.possible(table) for each in both)
        assert set(zip(*compiled, strict=True)) == set(zip(*expected, strict=True))
        assert sorted(compiled[0]) == compiled[0].tolist()
        open_tests = (each.open_tests(table, *expected) for each in both)
        compiled, expected = (sorted(zip(*each, strict=True)) for each in open_tests)
        assert compiled == expected
