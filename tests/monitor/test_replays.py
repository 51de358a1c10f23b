"""How the alerts of two rule sets differ."""

from __future__ import annotations

import pytest

from saeguard.monitor.replays import Place, Replayed, changes


def alert(token, rule="a", request="r", outcome="alert"):
    place = None if token is None else Place(token + 10, "answer", token)
    return Replayed(rule, "low", request, place, outcome, None, "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([], [], []),
        ([1], [1], []),
        ([], [1], [(None, 1)]),
        ([1], [], [(1, None)]),
        ([1], [2], [(1, 2)]),
        ([1, 2], [2], [(1, None)]),
        ([2, 5], [5, 9], [(2, 9)]),
        ([1, 2, 3], [4, 5], [(1, 4), (2, 5), (3, None)]),
        ([None], [None, None], [(None, None)]),
    ],
)
def test_alerts_of_a_rule_in_a_request_are_paired_where_they_are_not_the_same(old, new, expected):
    found = changes([alert(token) for token in old], [alert(token) for token in new])
    sides = [(change.old, change.new) for change in found]
    tokens = [tuple(side and side.place and side.place.token for side in pair) for pair in sides]
    assert tokens == expected


def test_alerts_of_other_rules_or_requests_are_not_paired():
    found = changes([alert(1), alert(1, request="s")], [alert(1, rule="b"), alert(2, request="s")])
    kinds = [(change.kind, change.either.rule, change.either.request) for change in found]
    assert kinds == [("added", "b", "r"), ("moved", "a", "s"), ("removed", "a", "r")]


def test_only_alerts_are_compared():
    assert changes([alert(1)], [alert(1), alert(2, outcome="limited")]) == []
