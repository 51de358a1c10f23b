"""What clients ask to be left alone by, and what comes of it."""

from __future__ import annotations

from typing import Literal

from saeguard.rules import RuleSet
from saeguard.rules.decisions.decide import EVERY_RULE

OptOutOutcome = Literal["granted", "mandatory", "not_allowed", "unknown"]
"""`not_allowed`: by `allow_opt_out` in saeguard.yaml. `unknown`: no rule has that name."""

OptOuts = dict[str, OptOutOutcome]
"""Name that a client gave, or `EVERY_RULE` -> what came of it."""

OUTCOMES: tuple[OptOutOutcome, ...] = ("granted", "mandatory", "not_allowed", "unknown")


def opt_outs(asked: str, ruleset: RuleSet, is_allowed: bool) -> OptOuts:
    """
    Args:
        asked: names of rules with commas between them. Whatever else a client may have written is
            the name of no rule, so it turns off nothing.
        ruleset: the rules in force. `mandatory` is asked again at each match, for they may change.
    """
    if not asked:
        return {}
    rules = {rule.name: rule for rule in ruleset.rules}
    names = dict.fromkeys(name.strip() for name in asked.split(","))

    def outcome(name: str) -> OptOutOutcome:
        if name != EVERY_RULE and name not in rules:
            return "unknown"
        if not is_allowed:
            return "not_allowed"
        return "granted" if name == EVERY_RULE or rules[name].allows_opt_out else "mandatory"

    return {name: outcome(name) for name in names}


def granted(opt_outs: OptOuts) -> frozenset[str]:
    return frozenset(name for name, outcome in opt_outs.items() if outcome == "granted")
