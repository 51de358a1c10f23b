"""The store of prefix scores forgets what was used longest ago, and never grows past its bound."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeguard.monitor.columns import order_of
from saeguard.monitor.prefix_scores import PrefixScores

BLOCK_SIZE, NUM_FEATURES = 4, 3
BLOCK_BYTES = 4 * BLOCK_SIZE * NUM_FEATURES


def block(value: float, num_features: int = NUM_FEATURES) -> np.ndarray:
    return np.full((BLOCK_SIZE, num_features), value, np.float32)


def names(*numbers: int) -> list[bytes]:
    return [bytes([number]) for number in numbers]


def put(store: PrefixScores, *numbers: int) -> None:
    """Blocks that hold their own numbers."""
    blocks = np.stack([block(number) for number in numbers])
    store.put(names(*numbers), blocks, np.ones(len(numbers), bool))


def known(store: PrefixScores, *numbers: int) -> list[int]:
    """Which of them it has, with the right scores."""
    found = []
    for number in numbers:
        scores, (is_known,), (is_whole,) = store.find(names(number))
        assert is_known == is_whole
        np.testing.assert_array_equal(scores[0], block(number if is_known else np.nan))
        found += [number] if is_known else []
    return found


@pytest.fixture
def store() -> PrefixScores:
    """Of three blocks."""
    return PrefixScores(BLOCK_SIZE, NUM_FEATURES, max_bytes=4 * BLOCK_BYTES - 1)


def test_what_is_found_and_what_is_not_come_together(store: PrefixScores):
    put(store, 1, 2)
    scores, is_known, is_whole = store.find(names(1, 9, 2))
    assert is_known.tolist() == is_whole.tolist() == [True, False, True]
    np.testing.assert_array_equal(scores, [block(1), block(np.nan), block(2)])


def test_the_least_recently_used_block_makes_room(store: PrefixScores):
    for number in (1, 2, 3):
        put(store, number)
    assert known(store, 1) == [1]
    put(store, 4)
    assert known(store, 1, 2, 3, 4) == [1, 3, 4]


def test_of_blocks_that_came_together_the_last_goes_first(store: PrefixScores):
    """Without the first one nobody looks for the others."""
    put(store, 1, 2, 3)
    put(store, 4)
    assert known(store, 1, 2, 3) == [1, 2]


def test_a_request_larger_than_the_store_keeps_its_beginning(store: PrefixScores):
    put(store, 1, 2, 3, 4, 5)
    assert known(store, 1, 2, 3, 4, 5) == [1, 2, 3]


def test_a_block_that_is_computed_again_replaces_itself(store: PrefixScores):
    put(store, 1, 2, 3)
    store.put(names(2), block(7)[None], np.array([True]))
    scores, is_known, _ = store.find(names(1, 2, 3))
    assert is_known.all()
    np.testing.assert_array_equal(scores, [block(1), block(7), block(3)])


def test_a_store_without_room_knows_nothing():
    store = PrefixScores(BLOCK_SIZE, NUM_FEATURES, max_bytes=0)
    put(store, 1, 2)
    assert known(store, 1, 2) == []


def test_a_change_of_columns_keeps_what_is_known_of_them(store: PrefixScores):
    scores = np.arange(2 * BLOCK_SIZE * 3, dtype=np.float32).reshape(2, BLOCK_SIZE, 3)
    store.put(names(1, 2), scores, np.array([True, True]))
    store.rearrange(order_of(["c", "new", "a"], ["a", "b", "c"]))
    got, is_known, is_whole = store.find(names(1, 2))
    assert is_known.all()
    assert not is_whole.any()
    np.testing.assert_array_equal(got[..., [0, 2]], scores[..., [2, 0]])
    assert np.isnan(got[..., 1]).all()


def test_fewer_columns_leave_whole_what_was_whole(store: PrefixScores):
    store.put(names(1, 2), np.stack([block(1), block(2)]), np.array([True, False]))
    store.rearrange(order_of(["c", "a"], ["a", "b", "c"]))
    _, is_known, is_whole = store.find(names(1, 2, 3))
    assert is_known.tolist() == [True, True, False]
    assert is_whole.tolist() == [True, False, False]


def test_more_columns_leave_room_for_the_newest_blocks_only(store: PrefixScores):
    for number in (1, 2, 3):
        put(store, number)
    store.rearrange(order_of(list("abcde"), list("abc")))
    assert store.capacity == 2
    _, is_known, _ = store.find(names(1, 2, 3))
    assert is_known.tolist() == [False, True, True]
    store.put(names(4), block(4, 5)[None], np.array([True]))
    scores, is_known, is_whole = store.find(names(2, 3, 4))
    assert is_known.tolist() == [True, False, True]
    assert is_whole.tolist() == [False, False, True]
    np.testing.assert_array_equal(scores[2], block(4, 5))


@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), unique=True)), max_size=30))
def test_it_agrees_with_an_obvious_one(steps: list[tuple[bool, list[int]]]):
    store = PrefixScores(BLOCK_SIZE, NUM_FEATURES, max_bytes=4 * BLOCK_BYTES)
    obvious: OrderedDict[int, None] = OrderedDict()
    for is_put, numbers in steps:
        if is_put:
            if numbers:
                put(store, *numbers)
            for number in reversed(numbers[:4]):
                obvious.pop(number, None)
                obvious[number] = None
                while len(obvious) > 4:
                    obvious.popitem(last=False)
        else:
            scores, are_known, _ = store.find(names(*numbers))
            assert are_known.tolist() == [number in obvious for number in numbers]
            for number, is_known, got in zip(numbers, are_known, scores, strict=True):
                np.testing.assert_array_equal(got, block(number if is_known else np.nan))
            for number in reversed(numbers):
                if number in obvious:
                    obvious.move_to_end(number)
