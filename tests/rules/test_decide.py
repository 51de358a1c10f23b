"""What becomes of matches: exceptions, limits, building blocks, correlations, reloads."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from saeguard.rules import RequestContext
from saeguard.rules.decisions.decide import Decider, expired_exceptions
from saeguard.rules.errors import Location
from saeguard.rules.model import Exemption, Limit
from tests.rules.decisions import correlation, make_match, make_rule, make_ruleset

NOWHERE = RequestContext()


def outcomes(decisions):
    return [(decision.match.rule.name, decision.outcome) for decision in decisions]


def decide(decider, rule, time_s=0.0, key="r", limited=False, opted_out=(), **context):
    """What becomes of a match and of what it completes: (rule, outcome) of each."""
    match, time_ns = make_match(rule, key, limited), round(time_s * 1e9)
    return outcomes(decider.decide(match, RequestContext(**context), time_ns, opted_out))


def noon(day: str) -> int:
    return int(datetime.fromisoformat(f"{day}T12:00:00+00:00").timestamp()) * 10**9


def count_of(rule, gte=1, name="c", timespan_s=600, **fields):
    """A correlation that asks for so many matches of a rule."""
    group_by = fields.pop("group_by", ())
    asked = correlation("event_count", [rule.name], group_by, timespan_s, gte)
    return make_rule(name, detection=asked, **fields)


def test_a_match_is_an_alert_with_its_context_and_time():
    rule = make_rule("a")
    match, context = make_match(rule), RequestContext(tenant="t")
    (decision,) = Decider(make_ruleset(rule)).decide(match, context, 5)
    assert decision.match is match
    assert (decision.context, decision.time_ns, decision.outcome) == (context, 5, "alert")


def test_an_exception_comes_before_the_limit_and_the_limit_before_the_building_block():
    exception = Exemption("e", "why", tenants=("red",))
    rule = make_rule("a", emit=False, exceptions=(exception,))
    decider = Decider(make_ruleset(rule))
    assert decide(decider, rule, limited=True, tenant="red") == [("a", "suppressed")]
    assert decide(decider, rule, limited=True) == [("a", "limited")]
    assert decide(decider, rule) == [("a", "building_block")]


def test_a_client_opts_out_of_the_rules_that_it_names_or_of_all():
    rule, other = make_rule("a"), make_rule("b")
    decider = Decider(make_ruleset(rule, other))
    for names in (["a"], ["*"], ["a", "no_such_rule"]):
        assert decide(decider, rule, opted_out=names) == [("a", "opted_out")]
    assert decide(decider, other, opted_out=["a"]) == [("b", "alert")]


def test_no_client_opts_out_of_a_mandatory_rule_or_of_one_across_requests():
    rule = make_rule("a", mandatory=True)
    across = count_of(rule)
    decider = Decider(make_ruleset(rule, across))
    for names in (["a", "c"], ["*"]):
        expected = [("a", "alert"), ("c", "alert")]
        assert decide(Decider(make_ruleset(rule, across)), rule, opted_out=names) == expected
    assert decide(decider, rule) == [("a", "alert"), ("c", "alert")]


def test_what_a_client_has_opted_out_of_still_feeds_rules_across_requests():
    rule = make_rule("a")
    across = count_of(rule, gte=2)
    decider = Decider(make_ruleset(rule, across))
    assert decide(decider, rule, key="r1", opted_out=["*"]) == [("a", "opted_out")]
    assert decide(decider, rule, key="r2", opted_out=["*"]) == [("a", "opted_out"), ("c", "alert")]
    over = decide(decider, rule, key="r2", limited=True, opted_out=["*"])
    assert over == [("a", "opted_out")], "over the limit per request it feeds nothing, as ever"


def test_opting_out_uses_up_no_alert_of_others_and_comes_after_exceptions():
    exception = Exemption("e", "why", tenants=("red",))
    rule = make_rule("a", limit=Limit("rule", 1, 3600), exceptions=(exception,))
    decider = Decider(make_ruleset(rule))
    for _ in range(3):
        assert decide(decider, rule, opted_out=["a"]) == [("a", "opted_out")]
    assert decide(decider, rule, tenant="red", opted_out=["a"]) == [("a", "suppressed")]
    assert decide(decider, rule) == [("a", "alert")]
    assert decide(decider, rule) == [("a", "limited")]


@pytest.mark.parametrize(
    ("when", "context", "fits"),
    [
        ({"tenants": ("a", "b")}, {"tenant": "b"}, True),
        ({"tenants": ("a",)}, {"tenant": "ab"}, False),
        ({"tenants": ("a*",)}, {"tenant": "ab"}, True),
        ({"tenants": ("a?[1]",)}, {"tenant": "ab[1]"}, True),
        ({"tenants": ("a[b]",)}, {"tenant": "ab"}, False),
        ({"tenants": ("*",)}, {}, False),
        ({"tenants": ("a",)}, {}, False),
        ({"clients": ("a",)}, {"client": "a"}, True),
        ({"clients": ("c*",)}, {"client": "a"}, False),
        ({"clients": ("*-ci",)}, {"client": "acme-ci"}, True),
        ({"models": ("Qwen/*",)}, {"model": "Qwen/Qwen3-8B"}, True),
        ({"loras": ("red-?",)}, {"lora": "red-1"}, True),
        ({"loras": ("*",)}, {}, False),
        ({"tenants": ("a",), "models": ("m*",)}, {"tenant": "a", "model": "m1"}, True),
        ({"tenants": ("a",), "models": ("m*",)}, {"tenant": "a", "model": "n"}, False),
        ({"tenants": ("a",), "models": ("m*",)}, {"tenant": "b", "model": "m1"}, False),
    ],
)
def test_all_keys_of_an_exception_must_fit(when, context, fits):
    rule = make_rule("a", exceptions=(Exemption("e", "why", **when),))
    (outcome,) = decide(Decider(make_ruleset(rule)), rule, **context)
    assert outcome == ("a", "suppressed" if fits else "alert")


@pytest.mark.parametrize(
    ("time", "outcome"),
    [
        ("2026-12-31T23:59:59.999999999", "suppressed"),
        ("2027-01-01T00:00:00.000000000", "alert"),
    ],
)
def test_an_exception_holds_to_the_end_of_its_last_day_in_utc(time, outcome):
    rule = make_rule("a", exceptions=(Exemption("e", "why", expires=date(2026, 12, 31)),))
    second, fraction = time.split(".")
    time_ns = int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp()) * 10**9
    decisions = Decider(make_ruleset(rule)).decide(
        make_match(rule), NOWHERE, time_ns + int(fraction)
    )
    assert outcomes(decisions) == [("a", outcome)]


def test_expiry_is_judged_at_the_time_of_the_match_even_if_it_comes_late():
    rule = make_rule("a", exceptions=(Exemption("e", "why", expires=date(2026, 12, 31)),))
    decider = Decider(make_ruleset(rule))
    assert outcomes(decider.decide(make_match(rule), NOWHERE, noon("2027-01-01"))) == [
        ("a", "alert")
    ]
    assert outcomes(decider.decide(make_match(rule), NOWHERE, noon("2026-12-31"))) == [
        ("a", "suppressed")
    ]


def test_every_use_of_an_exception_is_counted_and_the_first_that_fits_is_named():
    exceptions = [
        Exemption("gone", "why", expires=date(1999, 1, 1)),
        Exemption("red", "why", tenants=("red",)),
        Exemption("all", "why", models=("*",)),
    ]
    rule = make_rule("a", exceptions=tuple(exceptions))
    decider = Decider(make_ruleset(rule))
    named = [
        decision.exception
        for context in (RequestContext(tenant="red"), RequestContext(), RequestContext())
        for decision in decider.decide(make_match(rule), context, noon("2026-11-21"))
    ]
    assert named == ["red", "all", "all"]
    assert decider.exception_uses == {("a", "red"): 1, ("a", "all"): 2}


def test_expired_exceptions_can_be_listed():
    last_day = Exemption("e", "why", expires=date(2026, 12, 31))
    rule = make_rule("a", exceptions=(last_day, Exemption("for ever", "why")))
    ruleset = make_ruleset(make_rule("b"), rule)
    assert expired_exceptions(ruleset, noon("2026-12-31")) == []
    assert expired_exceptions(ruleset, noon("2027-01-01")) == [(rule, last_day)]


def test_a_limit_per_request_with_a_span_slides():
    rule = make_rule("a", limit=Limit("request", max=2, every_s=10))
    decider = Decider(make_ruleset(rule))
    times_s = [0, 4, 9.9, 10, 13.9, 14]
    found = [decide(decider, rule, time_s)[0][1] for time_s in times_s]
    assert found == ["alert", "alert", "limited", "alert", "limited", "alert"]
    assert decide(decider, rule, 14, key="other") == [("a", "alert")]


def test_a_limit_per_rule_counts_all_requests():
    rule = make_rule("a", limit=Limit("rule", max=1, every_s=10))
    decider = Decider(make_ruleset(rule))
    found = [decide(decider, rule, time_s, key=str(time_s))[0][1] for time_s in (0, 5, 10)]
    assert found == ["alert", "limited", "alert"]


def test_a_limit_per_group_counts_each_group_of_a_correlation():
    rule = make_rule("a", emit=False)
    limit = Limit("group", max=1, every_s=3600)
    alarm = count_of(rule, timespan_s=1, group_by=["tenant"], limit=limit)
    decider = Decider(make_ruleset(rule, alarm))
    sent = [(0, "x"), (1, "y"), (60, "x"), (3601, "x")]
    found = [decide(decider, rule, time_s, tenant=tenant)[1][1] for time_s, tenant in sent]
    assert found == ["alert", "alert", "limited", "alert"]


def test_a_correlation_alerts_once_in_a_request_by_default():
    rule = make_rule("a", emit=False)
    alarm = count_of(rule, timespan_s=1)
    decider = Decider(make_ruleset(rule, alarm))
    assert decide(decider, rule, 0)[1] == ("c", "alert")
    assert decide(decider, rule, 60)[1] == ("c", "limited")
    assert decide(decider, rule, 120, key="other")[1] == ("c", "alert")
    decider.finish("r")
    assert decide(decider, rule, 180)[1] == ("c", "alert")


def test_the_request_of_a_correlation_is_that_of_its_last_match():
    rule = make_rule("a", emit=False)
    decider = Decider(make_ruleset(rule, count_of(rule, gte=2, timespan_s=1)))
    sent = [(0, "x"), (1, "y"), (60, "x"), (61, "z"), (120, "x"), (121, "z")]
    found = [decide(decider, rule, time_s, key)[1:] for time_s, key in sent]
    assert found == [[], [("c", "alert")], [], [("c", "alert")], [], [("c", "limited")]]


def test_what_is_suppressed_does_not_use_up_a_limit():
    rule = make_rule(
        "a",
        limit=Limit("rule", max=1, every_s=10),
        exceptions=(Exemption("e", "why", tenants=("red",)),),
    )
    decider = Decider(make_ruleset(rule))
    assert decide(decider, rule, tenant="red") == [("a", "suppressed")]
    assert decide(decider, rule) == [("a", "alert")]


def test_an_ended_request_is_forgotten():
    rule = make_rule("a", limit=Limit("request", max=1, every_s=10))
    decider = Decider(make_ruleset(rule))
    assert [decide(decider, rule)[0][1] for _ in range(2)] == ["alert", "limited"]
    decider.finish("r")
    decider.finish("never seen")
    assert decide(decider, rule) == [("a", "alert")]


def test_limits_remember_a_bounded_number_of_requests_and_count_what_they_forget():
    rule = make_rule("a", limit=Limit("request", max=1, every_s=10))
    decider = Decider(make_ruleset(rule), max_groups=2)
    for key in "xyz":
        decide(decider, rule, key=key)
    assert decider.num_evicted == 1
    assert decide(decider, rule, key="z") == [("a", "limited")]
    assert decide(decider, rule, key="x") == [("a", "alert")]


@pytest.mark.parametrize(
    ("fields", "sent", "is_counted"),
    [
        ({}, {}, True),
        ({"emit": False}, {}, True),
        ({"exceptions": (Exemption("e", "why", tenants=("red",)),)}, {"tenant": "red"}, False),
        ({}, {"limited": True}, False),
        ({"limit": Limit("request", max=1, every_s=10)}, {}, False),  # the second of two
        ({"limit": Limit("rule", max=1, every_s=10)}, {}, True),  # alerts are held back, not state
    ],
)
def test_what_feeds_a_correlation(fields, sent, is_counted):
    rule = make_rule("a", **fields)
    decider = Decider(make_ruleset(rule, count_of(rule, gte=2)))
    decide(decider, rule)
    assert len(decide(decider, rule, **sent)) == 1 + is_counted


def test_a_correlation_over_a_limit_feeds_others_unless_the_limit_is_per_request():
    rule = make_rule("a", emit=False)
    for limit, feeds in ((Limit("group", max=1, every_s=1e4), True), (Limit(), False)):
        inner = count_of(rule, name="inner", timespan_s=1, limit=limit)
        outer = count_of(inner, gte=2, name="outer")
        decider = Decider(make_ruleset(rule, inner, outer))
        assert len(decide(decider, rule, 0)) == 2
        expected = [("a", "building_block"), ("inner", "limited"), ("outer", "alert")]
        assert decide(decider, rule, 60) == expected[: 2 + feeds]


def test_correlations_are_decided_like_any_match_and_feed_others():
    rule = make_rule("a", emit=False)
    exception = Exemption("e", "why", tenants=("red",))
    inner = count_of(rule, gte=2, name="inner", emit=False)
    outer = count_of(inner, name="outer", exceptions=(exception,))
    decider = Decider(make_ruleset(outer, inner, rule))  # in any order
    assert decide(decider, rule) == [("a", "building_block")]
    assert decide(decider, rule, key="s", tenant="red") == [
        ("a", "building_block"),
        ("inner", "building_block"),
        ("outer", "suppressed"),
    ]
    assert decider.exception_uses == {("outer", "e"): 1}


def test_a_match_feeds_every_correlation_of_its_rule():
    rule = make_rule("a")
    first, second = count_of(rule, name="first"), count_of(rule, name="second")
    decider = Decider(make_ruleset(first, rule, second))
    assert [name for name, _ in decide(decider, rule)] == ["a", "first", "second"]


def test_a_late_match_counts_as_happening_now():
    rule = make_rule("a")
    decider = Decider(make_ruleset(rule, count_of(rule, gte=2, timespan_s=10)))
    decide(decider, rule, 100)
    decision, completed = decider.decide(make_match(rule, "late"), NOWHERE, 0)
    assert (decision.time_ns, completed.time_ns) == (0, 0)
    assert [event.time_ns for event in completed.match.events] == [100 * 10**9] * 2


def reloaded(old, *rules):
    new = Decider(make_ruleset(*rules))
    new.carry_over(old)
    return new


def test_a_reload_keeps_the_state_of_unchanged_rules():
    limited = make_rule("limited", limit=Limit("rule", max=1, every_s=1e4))
    counted = make_rule("counted", exceptions=(Exemption("e", "why", tenants=("red",)),))
    alarm = count_of(counted, gte=2)
    old = Decider(make_ruleset(limited, counted, alarm))
    decide(old, limited)
    decide(old, counted)
    decide(old, counted, tenant="red")
    elsewhere = Location(Path("other.yaml"), 9)
    moved = [replace(rule, location=elsewhere) for rule in (alarm, limited, counted)]
    new = reloaded(old, make_rule("new"), *moved)
    assert decide(new, limited) == [("limited", "limited")]
    assert decide(new, counted) == [("counted", "alert"), ("c", "alert")]
    assert new.exception_uses == {("counted", "e"): 1}


def test_a_reload_starts_changed_rules_anew():
    limited = make_rule("limited", limit=Limit("rule", max=1, every_s=1e4))
    counted = make_rule("counted")
    alarm = count_of(counted, gte=2)
    old = Decider(make_ruleset(limited, counted, alarm))
    decide(old, limited)
    decide(old, counted)
    limited, alarm = replace(limited, severity="high"), replace(alarm, id="another id")
    new = reloaded(old, limited, counted, alarm)
    assert decide(new, limited) == [("limited", "alert")]
    assert decide(new, counted) == [("counted", "alert")]


def test_a_reload_carries_time_and_totals_on():
    rule = make_rule("a", limit=Limit("request", max=1, every_s=10))
    other = make_rule("b", limit=Limit("request", max=1, every_s=10))
    old = Decider(make_ruleset(rule, other), max_groups=1)
    for key in "xyz":
        decide(old, rule, 100, key=key)
        decide(old, other, 100, key=key)
    assert old.num_evicted == 4
    new = reloaded(old, rule, make_rule("c", detection=correlation("event_count", ["a"], gte=2)))
    assert new.num_evicted == 4
    decide(new, rule, 0, key="w")
    assert new.num_evicted == 5
    (_, completed) = new.decide(make_match(rule, "v"), NOWHERE, 0)
    assert completed.match.events[0].time_ns == 100 * 10**9
