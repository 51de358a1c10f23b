"""Rules as a rival: how well they tell positives from negatives as one of their thresholds moves.

The features that they read are computed from the captured activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from saeguard.integrations.discovery.activations import activations_at, hook_points_of
from saeguard.integrations.training.material import Doubles, Flags
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.live_heads import with_scores
from saeguard.rules import Rule, RuleSet, Signal
from saeguard.rules.calibration.labels import Example, Label
from saeguard.rules.calibration.sweep import CannotSweep, find_signal, sweep
from saeguard.rules.recordings.offline import RecordedRequest


class RuleRival:
    """Rules, each with the signal whose threshold moves."""

    name = "the best rule"
    caveat = "rules that were made from these requests look better here than they are"

    def __init__(self, ruleset: RuleSet, wanted: str | None) -> None:
        """
        Args:
            wanted: `RULE` or `RULE:SIGNAL`; None: every rule that reads features of SAEs only and
                has one signal to move.

        Raises:
            ConfigError: there is no such rule.
        """
        self.candidates = _wanted(ruleset, wanted)
        names = {rule.name for rule, _ in self.candidates}
        rules = tuple(rule for rule in ruleset.rules if rule.name in names)
        self._ruleset = ruleset
        self._watchlist = compile_watchlist(replace(ruleset, rules=rules))
        self._requests: dict[str, RecordedRequest] = {}
        self._scores = np.empty((0, 0))

    def watch(self, request: RecordedRequest) -> None:
        """Score what the rules read of a request.

        Raises:
            ConfigError: a hook point that they read was not captured.
        """
        captured = hook_points_of(request)
        parts = []
        for site in self._watchlist.sites:
            if site.hook_point not in captured:
                names = ", ".join(feature.name for feature in site.features)
                raise ConfigError(
                    f"{request.source}: {names} is read at {site.hook_point}, which was not "
                    "captured",
                    f"capture it too: --activations {site.hook_point}",
                )
            parts.append(wl.encode(activations_at(request, site.hook_point), site))
        scores = np.concatenate(parts, axis=1).astype(np.float32)
        scored = replace(request, columns=self._watchlist.columns, scores=scores)
        self._requests[request.context.id] = with_scores(scored, self._watchlist.heads)

    def judge(self, ids: Sequence[str]) -> None:
        """Find out at which threshold each rule matches in each of the requests."""
        examples = [Example(self._requests[name], Label(name, True), True) for name in ids]
        found = []
        for rule, signal in self.candidates:
            matched = sweep(self._ruleset, rule, signal, examples).matched
            found.append(matched.sum(axis=0))  # of the thresholds, strict ones matching least
        self._scores = np.array(found, np.float64)

    def scores(self, train: Flags) -> Doubles:
        """[candidates, requests]; nothing is learnt."""
        return self._scores

    def describe(self, candidate: int) -> str:
        rule, signal = self.candidates[candidate]
        return f"{rule.name}, by the threshold of {signal.name}"


def _wanted(ruleset: RuleSet, wanted: str | None) -> list[tuple[Rule, Signal]]:
    rules = {rule.name: rule for rule in ruleset.rules if rule.signals}
    name, _, signal = (wanted or "").partition(":")
    try:
        if wanted is not None:
            if name not in rules:
                raise ConfigError(f"no rule '{name}' with signals; there are {', '.join(rules)}")
            return [(rules[name], find_signal(rules[name], signal or None))]
    except CannotSweep as error:
        raise ConfigError(str(error), "name it: --against-rule RULE:SIGNAL") from error
    found = []
    for rule in rules.values():
        kinds = {ruleset.features[f].source.kind for f in _features(rule)}
        if kinds == {"sae"}:
            try:
                found.append((rule, find_signal(rule)))
            except CannotSweep:
                continue
    if not found:
        raise ConfigError(
            "no rule reads features of SAEs only and has one threshold to move",
            "name one: --against-rule RULE:SIGNAL",
        )
    return found


def _features(rule: Rule) -> set[str]:
    return {name for signal in rule.signals for name in signal.aggregate.features}
