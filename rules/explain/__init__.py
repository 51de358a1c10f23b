"""A rule in plain language: what must happen, in what order, what mutes it, what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from saeguard.rules.explain.detections import matches
from saeguard.rules.explain.words import (
    Item,
    join,
    lines,
    phases_in_words,
    requests_in_words,
    sentence,
)
from saeguard.rules.loading.units import format_duration
from saeguard.rules.model import (
    Correlation,
    Exemption,
    Feature,
    RouterFeature,
    Rule,
    RuleSet,
    SaeFeature,
)

__all__ = ["explain"]


def explain(ruleset: RuleSet, rule: Rule, today: date, width: int = 88) -> str:
    """The rule as a person would explain it, in lines of `width` characters.

    Args:
        ruleset: the rules around it, which it may build on or feed.
        rule: one of them.
        today: in UTC; some exceptions have expired on it.
        width: of a line.
    """
    sections: dict[str, Callable[[RuleSet, Rule], Iterator[Item]]] = {
        "What it watches": _watches,
        "When it matches": matches,
        "What mutes it": lambda _, rule: _mutes(rule, today),
        "What it needs": _needs,
        "What happens then": _happens,
    }
    text = [f"{rule.name}: {rule.title}", *lines(_about(rule), width)]
    for heading, section in sections.items():
        text += ["", heading]
        for item in section(ruleset, rule):
            text += lines(item, width)
    return "\n".join(text)


def _about(rule: Rule) -> Item:
    description = f" {sentence(rule.description)}" if rule.description else ""
    kind = "A building block" if not rule.emit else f"A rule of {rule.severity} severity"
    where = f"{rule.location.path}:{rule.location.line}"
    changed = ""
    if rule.changes:
        keys = (f"{each.path} ({each.location.path}:{each.location.line})" for each in rule.changes)
        changed = f" Overlays changed its {join(keys)}."
    return Item(f"{kind}, status {rule.status}, from {where}.{changed}{description}")


def _watches(ruleset: RuleSet, rule: Rule) -> Iterator[Item]:
    if isinstance(rule.detection, Correlation):
        of = join(f"`{name}`" for name in rule.detection.rules)
        yield Item(f"Matches of {of}, across requests.")
        return
    scope = rule.scope
    requests = requests_in_words(scope.models, scope.loras, scope.tenants)
    yield Item(sentence(f"{phases_in_words(rule.phases)} of {requests}"))
    features = tuple(Item(_feature(ruleset.features[name])) for name in rule.features)
    yield Item("In it, the scores of:", features)


def _feature(feature: Feature) -> str:
    source = feature.source
    label = f" ({feature.label})" if feature.label else ""
    if isinstance(source, RouterFeature):
        what = f"the {feature.units} of expert {source.expert}"
        return f"`{feature.name}`{label}: {what} by the router of layer {source.layer}"
    path = _relative(source.path, feature.location.path.parent)
    if isinstance(source, SaeFeature):
        layer = "" if source.layer is None else f", layer {source.layer}"
        return f"`{feature.name}`{label}: row {source.index} of the SAE {path}{layer}"
    return f"`{feature.name}`{label}: the probe `{source.name}` of {path}"


def _relative(path: Path, folder: Path) -> str:
    """As the rule file has it, where it can be said so."""
    relative = os.path.relpath(path, folder.resolve())
    return str(path) if relative.startswith("..") else relative


def _mutes(rule: Rule, today: date) -> Iterator[Item]:
    yield Item(_limit(rule))
    for exemption in rule.exceptions:
        yield Item(_exemption(exemption, today))
    if not rule.exceptions:
        yield Item("There are no exceptions.")
    if rule.emit and not rule.allows_opt_out:
        yield Item("No client can opt out of it.")
    elif rule.emit:
        yield Item("Clients can opt out of it where saeguard.yaml allows that.")


def _limit(rule: Rule) -> str:
    limit, unit = rule.limit, "alert" if rule.emit else "match"
    most = f"1 {unit}" if limit.max == 1 else f"{limit.max} {'alerts' if rule.emit else 'matches'}"
    every = f" in any {format_duration(limit.every_s)}" if limit.every_s else ""
    match limit.per, rule.detection:
        case "group", Correlation(group_by=(_, *_) as keys):
            per = f" for each {join(keys)}"
        case "request", _:
            per = " per request"
        case _:
            per = " from this rule"
    return f"At most {most}{per}{every}; what is beyond that is counted as limited."


def _exemption(exemption: Exemption, today: date) -> str:
    who = requests_in_words(exemption.models, exemption.loras, exemption.tenants, exemption.clients)
    expires = exemption.expires
    if expires is not None and expires < today:
        return f"The exception {exemption.name}, for {who}, ended on {expires}: it mutes nothing."
    until = f"until {expires}" if expires else "without an end"
    return (
        f"The exception {exemption.name} lets off {who}, {until}; each use is counted as "
        f"suppressed. The reason: {sentence(exemption.reason)}"
    )


def _needs(ruleset: RuleSet, rule: Rule) -> Iterator[Item]:
    if isinstance(rule.detection, Correlation):
        titles = {each.name: each for each in ruleset.rules}
        rules = (titles[name] for name in rule.detection.rules)
        yield Item("Matches of these rules:", tuple(Item(_described(each)) for each in rules))
        return
    names = join(f"`{name}`" for name in sorted(rule.features))
    yield Item(f"In the watchlist: {names}.")
    blocks = dict.fromkeys(
        block for signal in rule.signals if (block := signal.name.rpartition(".")[0])
    )
    if blocks:
        yield Item(f"As building blocks: {join(f'`{name}`' for name in blocks)}.")
    if rule.min_coverage:
        yield Item(
            f"At least {rule.min_coverage * 100:g}% of a request's tokens must have been seen; "
            "with less, its silence counts as uncovered."
        )


def _described(rule: Rule) -> str:
    block = ", which raises no alert itself" if not rule.emit else ""
    return f"`{rule.name}`{block}: {rule.title}"


def _happens(ruleset: RuleSet, rule: Rule) -> Iterator[Item]:
    if rule.emit:
        yield Item(f'An alert of {rule.severity} severity with the message "{rule.message.text}".')
    else:
        yield Item("No alert: it is a building block.")
    if rule.action == "stop":
        yield Item("The request is stopped.")
    if uses := sorted(_uses(ruleset, rule)):
        yield Item(f"It feeds {join(f'`{name}`' for name in uses)}.")
    for text, values in {
        "Tags": rule.tags,
        "Known to fire wrongly on": rule.falsepositives,
        "See": rule.references,
    }.items():
        if values:
            yield Item(f"{text}: {', '.join(values)}.")


def _uses(ruleset: RuleSet, rule: Rule) -> Iterator[str]:
    for other in ruleset.rules:
        counted = isinstance(other.detection, Correlation) and rule.name in other.detection.rules
        if counted or any(signal.name.startswith(f"{rule.name}.") for signal in other.signals):
            yield other.name
