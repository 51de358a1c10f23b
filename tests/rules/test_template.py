"""Messages can show what is on the list, formatted, and can reach nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from saeguard.rules import RequestContext, Rule, load_rules, render_message
from saeguard.rules.loading.units import format_duration, parse_duration
from saeguard.rules.matches import CorrelationMatch
from saeguard.rules.template import parse_template
from tests.rules.samples import one_rule

VALUES = {
    ("rule", "title"): "Lie",
    ("signal", "s", "value"): 4.25,
    ("signal", "s", "position"): 7,
    ("signal", "s", "token"): "a\n",
    ("signal", "block.s", "value"): 3.0,
    ("request", "client"): "cli",
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
        ("{signal.block.s.value:.0f} {request.client}", "3 cli"),
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
        ("{signal.a.b.c.value}", 0, "unknown placeholder"),
        ("{count}", 0, "unknown placeholder"),
        ("{group.tenant}", 0, "unknown placeholder"),
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


def test_correlation_shows_its_count_its_timespan_and_its_group():
    template, mistakes = parse_template("{count:03d} in {timespan}: {group.model!r}", ["model"])
    values = {("count",): 7, ("timespan",): "10m", ("group", "model"): "m"}
    assert not mistakes
    assert template.render(values.__getitem__) == "007 in 10m: 'm'"


@pytest.mark.parametrize("text", ["{signal.s.value}", "{group.tenant}", "{group}", "{timespan.s}"])
def test_correlation_has_no_signals_and_no_other_groups(text):
    _, mistakes = parse_template(text, ["model"])
    assert [mistake.offset for mistake in mistakes] == [0]


def test_message_of_a_correlation_is_rendered_from_the_match_and_the_request(tmp_path):
    correlate = {
        "type": "event_count",
        "rules": ["the_rule"],
        "group_by": ["tenant"],
        "timespan": "600s",
        "gte": 3,
    }
    message = "{rule.name}: {count} in {timespan} of {group.tenant}, {request.id} {request.lora}"
    rule = correlation(tmp_path, correlate=correlate, message=message)
    match = CorrelationMatch(rule, {"tenant": "acme"}, 4, ())
    context = RequestContext(model="m", tenant="acme", id="req-1")
    assert render_message(match, context, str) == "campaign: 4 in 10m of acme, req-1 -"


def correlation(folder: Path, **keys: Any) -> Rule:
    """A rule beside `the_rule` of `one_rule`."""
    one_rule(folder)
    data = yaml.safe_load((folder / "one.yaml").read_text())
    rule = {
        "id": "00000000-0000-0000-0000-000000000002",
        "name": "campaign",
        "title": "Campaign",
        "status": "test",
        "severity": "high",
    }
    data["rules"].append(rule | keys)
    (folder / "two.yaml").write_text(yaml.safe_dump(data))
    return load_rules([folder / "two.yaml"]).rules[1]


@pytest.mark.parametrize(
    ("seconds", "text"), [(30, "30s"), (600, "10m"), (3600, "1h"), (5400, "90m"), (172800, "2d")]
)
def test_durations_are_shown_in_the_largest_whole_unit(seconds, text):
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds
