"""The rules in force with all that runs them: changed as a whole or not at all."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saeguard.monitor.alerting import AlertMaker
from saeguard.monitor.config import Config, read_rules
from saeguard.monitor.detector import Detection
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.opt_outs import granted
from saeguard.monitor.watchlist import WatchedFeature, Watchlist
from saeguard.monitor.watchlist import load as load_watchlist
from saeguard.rules import Engine, Feature, RouterFeature, RuleSet, SaeFeature
from saeguard.rules.decisions.decide import Decider
from saeguard.rules.matches import Decision


@dataclass(frozen=True, slots=True)
class Rulebook:
    """A rule set, the watchlist that it reads, and their state."""

    ruleset: RuleSet
    watchlist: Watchlist
    engine: Engine
    decider: Decider
    maker: AlertMaker

    @classmethod
    def make(cls, ruleset: RuleSet, watchlist: Watchlist, compile_command: str) -> Rulebook:
        """
        Args:
            compile_command: what makes a watchlist that fits the rules.

        Raises:
            ConfigError: the watchlist lacks a feature that the rules use, or has another one of
            that name; says how to mend it.
        """
        if misfits := _misfits(ruleset, watchlist):
            raise ConfigError(
                f"the watchlist does not fit the rules: {'; '.join(misfits)}",
                f"run: {compile_command}",
            )
        engine = Engine(ruleset, watchlist.columns)
        return cls(ruleset, watchlist, engine, Decider(ruleset), AlertMaker(ruleset, watchlist))

    def decide(self, detection: Detection) -> list[Decision]:
        """What becomes of a match, and of what it completes across requests."""
        request, time_ns = detection.request, detection.frame.time_ns
        opted_out = granted(request.opt_outs)
        return self.decider.decide(
            detection.match, request.context, time_ns, opted_out, time.monotonic_ns()
        )

    @property
    def can_stop(self) -> bool:
        """Whether any rule ends requests."""
        return any(rule.action == "stop" for rule in self.ruleset.rules)

    def is_same_as(self, ruleset: RuleSet, watchlist: Watchlist) -> bool:
        """Whether files with these contents would change nothing."""
        return (self.ruleset.sha256, self.watchlist.digest) == (ruleset.sha256, watchlist.digest)


def load_rulebook(config: Config, known: Rulebook | None = None) -> Rulebook:
    """What the files of a configuration say now; `known` itself where they say the same.

    Raises:
        ConfigError, WatchlistError: they cannot be used, and why.
    """
    ruleset = read_rules(config.rules)
    watchlist = load_watchlist(config.watchlist)
    if known is not None and known.is_same_as(ruleset, watchlist):
        return known
    return Rulebook.make(ruleset, watchlist, compile_command(config.rules, config.watchlist))


def compile_command(rules: Sequence[Path | str], watchlist: Path) -> str:
    """To be pasted into a shell."""
    return shlex.join(["saeguard", "compile", *map(str, rules), "-o", str(watchlist)])


def _misfits(ruleset: RuleSet, watchlist: Watchlist) -> list[str]:
    """For people, every used feature that is not in the watchlist as the rules define it."""
    watched = {
        feature.name: (site.hook_point.layer, feature)
        for site in watchlist.sites
        for feature in site.features
    }
    misfits = []
    for name in ruleset.used_features():
        if name not in watched:
            misfits.append(f"it lacks {name}")
        elif difference := _difference(ruleset.features[name], *watched[name]):
            misfits.append(f"its {name} is {difference}")
    return misfits


def _difference(feature: Feature, layer: int, watched: WatchedFeature) -> str:
    """How the watched feature is another one than the rules name; empty if it is not."""
    source = feature.source
    if (watched.kind, watched.source) != (source.kind, source.origin):
        return f"of the {watched.kind} {watched.source}"
    if watched.units != feature.units:
        return f"in the units {watched.units}"
    if isinstance(source, SaeFeature):
        if watched.index != source.index:
            return f"row {watched.index}"
        if source.layer not in (None, layer):
            return f"of layer {layer}"
    if isinstance(source, RouterFeature) and watched.index != source.expert:
        return f"expert {watched.index}"
    return ""
