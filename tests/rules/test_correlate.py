"""Correlations against a naive reference that keeps everything and recomputes from scratch."""

from __future__ import annotations

import itertools
import random

import pytest

from saeguard.rules.decisions.correlate import Correlator
from saeguard.rules.model import Correlation
from tests.rules.decisions import correlation, event, make_rule


def value(event, key):
    fields = {"rule": event.rule, "request": event.key}
    return fields.get(key) or getattr(event.context, key) or "-"


def is_true(question: Correlation, events) -> bool:
    """Of the events within a timespan, in their order: the meaning of each type, word for word."""
    least = question.threshold + (question.comparison == "gt")
    match question.type:
        case "event_count":
            return len(events) >= least
        case "value_count":
            return len({value(event, question.field) for event in events}) >= least
        case "temporal":
            return {event.rule for event in events} >= set(question.rules)
        case "temporal_ordered":
            chains = itertools.combinations(events, len(question.rules))
            return any(tuple(event.rule for event in chain) == question.rules for chain in chains)


def reference(question: Correlation, events) -> list[int]:
    """Numbers of the events with which it becomes true."""
    found = []
    for number, newest in enumerate(events):
        group = [value(newest, key) for key in question.group_by]
        before = [
            event
            for event in events[:number]
            if [value(event, key) for key in question.group_by] == group
            and newest.time_ns - event.time_ns <= question.timespan_s * 1e9
        ]
        if is_true(question, [*before, newest]) and not is_true(question, before):
            found.append(number)
    return found


def run(question: Correlation, events) -> list[int]:
    correlator = Correlator(make_rule("c", detection=question))
    return [number for number, event in enumerate(events) if correlator.take(event)]


def random_question(rng) -> Correlation:
    kind = rng.choice(["event_count", "value_count", "temporal", "temporal_ordered"])
    is_count = kind.endswith("count")
    return Correlation(
        type=kind,
        rules=tuple(rng.sample("abc", rng.randint(1 if is_count else 2, 3))),
        group_by=tuple(rng.sample(["tenant", "model", "client"], rng.randint(0, 2))),
        timespan_s=rng.choice([1, 2.5, 10]),
        comparison=rng.choice(["gt", "gte"]),
        threshold=rng.randint(1, 3),
        field=rng.choice(["tenant", "client", "rule", "request"]) if is_count else None,
    )


def random_events(rng, rules, length):
    """In the order of time, with many at the same time, and requests that lack what is asked."""
    time_s = 0
    for _ in range(length):
        time_s += rng.choice([0, 0, 0.5, 1, 2])
        yield event(
            rng.choice(rules),
            time_s,
            key=rng.choice("xyz"),
            tenant=rng.choice([None, "t1", "t2"]),
            client=rng.choice([None, "c1", "c2", "c3"]),
            model=rng.choice(["m", "m", "n"]),
        )


@pytest.mark.parametrize("seed", range(400))
def test_random_matches_complete_a_correlation_where_the_reference_says(seed):
    rng = random.Random(seed)
    question = random_question(rng)
    events = list(random_events(rng, question.rules, 24))
    assert run(question, events) == reference(question, events)


def test_the_random_questions_are_answered_both_ways():
    """Else the comparison would compare nothing."""
    answers = {"event_count": [], "value_count": [], "temporal": [], "temporal_ordered": []}
    for seed in range(100):
        rng = random.Random(seed)
        question = random_question(rng)
        events = list(random_events(rng, question.rules, 24))
        answers[question.type].append(len(run(question, events)))
    assert all(min(counts) == 0 and max(counts) > 2 for counts in answers.values())


def test_reverse_order_is_no_ordered_match():
    question = correlation("temporal_ordered", ["a", "b"])
    assert run(question, [event("b", 0), event("a", 1)]) == []
    assert run(question, [event("b", 0), event("a", 1), event("b", 2)]) == [2]


def test_at_the_same_time_the_order_of_arrival_counts():
    question = correlation("temporal_ordered", ["a", "b"])
    assert run(question, [event("a", 5), event("b", 5)]) == [1]
    assert run(question, [event("b", 5), event("a", 5)]) == []


def test_the_timespan_includes_both_its_ends():
    question = correlation("event_count", ["a"], gte=2, timespan_s=60)
    assert run(question, [event("a", 0), event("a", 60)]) == [1]
    assert run(question, [event("a", 0), event("a", 60.000001)]) == []


def test_another_group_counts_for_itself():
    question = correlation("event_count", ["a"], gte=2, group_by=["tenant"])
    tenants = ["t1", "t2", None, "t1", None]
    events = [event("a", second, tenant=tenant) for second, tenant in enumerate(tenants)]
    assert run(question, events) == [3, 4]


def test_it_matches_once_while_it_stays_true_and_again_after_it_was_false():
    question = correlation("event_count", ["a"], gte=2, timespan_s=10)
    times = [0, 1, 2, 3, 12, 30, 31]  # at 12 those of 2 and 3 are left; at 30 none
    assert run(question, [event("a", time) for time in times]) == [1, 6]


def test_a_match_says_how_many_in_which_group_and_by_which_events():
    rule = make_rule("c", detection=correlation("event_count", ["a"], gte=40, group_by=["tenant"]))
    correlator = Correlator(rule)
    *none, match = [correlator.take(event("a", second, key=f"r{second}")) for second in range(40)]
    assert none == [None] * 39
    assert match.rule is rule
    assert (match.count, match.group) == (40, {"tenant": "-"})
    assert [event.key for event in match.events] == [f"r{second}" for second in range(8, 40)]


def test_the_events_of_distinct_values_are_the_newest_of_each():
    question = correlation("value_count", ["a"], gte=2, field="client")
    correlator = Correlator(make_rule("c", detection=question))
    for second, client in enumerate(["c1", "c1"]):
        assert correlator.take(event("a", second, client=client)) is None
    match = correlator.take(event("a", 2, client="c2"))
    assert [(event.context.client, event.time_ns) for event in match.events] == [
        ("c1", 10**9),
        ("c2", 2 * 10**9),
    ]


def test_the_longest_unused_group_makes_room_and_is_counted():
    question = correlation("event_count", ["a"], gte=2, group_by=["tenant"])
    correlator = Correlator(make_rule("c", detection=question), max_groups=2)
    assert not any(correlator.take(event("a", 0, tenant=tenant)) for tenant in ("t1", "t2", "t3"))
    assert correlator.groups.num_evicted == 1
    assert correlator.take(event("a", 1, tenant="t1")) is None
    assert correlator.take(event("a", 1, tenant="t3")) is not None


def test_groups_that_cannot_matter_any_more_go_without_being_counted():
    question = correlation("event_count", ["a"], gte=2, group_by=["tenant"], timespan_s=10)
    correlator = Correlator(make_rule("c", detection=question), max_groups=20)
    for second in range(1000):
        correlator.take(event("a", second, tenant=f"t{second}"))
    assert len(correlator.groups) == 11
    assert correlator.groups.num_evicted == 0


@pytest.mark.parametrize("kind", ["event_count", "value_count", "temporal", "temporal_ordered"])
def test_a_group_keeps_no_more_events_than_are_asked_for(kind):
    question = correlation(kind, ["a", "b"], gte=3, field="request", timespan_s=1e6)
    correlator = Correlator(make_rule("c", detection=question))
    for second in range(1000):
        correlator.take(event("ab"[second % 2], second, key=str(second)))
    assert len(correlator.groups.use((), 1000 * 10**9).events()) <= 3


def test_where_a_group_needs_many_events_there_are_fewer_groups():
    question = correlation("event_count", ["a"], gte=250_000, group_by=["tenant"])
    correlator = Correlator(make_rule("c", detection=question))
    for tenant in ("t1", "t2", "t3"):
        correlator.take(event("a", 0, tenant=tenant))
    assert (len(correlator.groups), correlator.groups.num_evicted) == (2, 1)
