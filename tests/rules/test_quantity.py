"""Numbers of things are written as people write them."""

from __future__ import annotations

import pytest

from saeguard.rules.quantity import quantity


@pytest.mark.parametrize(
    ("number", "noun", "written"),
    [
        (0, "alert", "0 alerts"),
        (1, "alert", "1 alert"),
        (2, "false alarm", "2 false alarms"),
        (1, "match", "1 match"),
        (1_200, "match", "1,200 matches"),
    ],
)
def test_one_thing_is_in_the_singular(number: int, noun: str, written: str):
    assert quantity(number, noun) == written
