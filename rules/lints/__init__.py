"""Lints: rules that load, but that probably do not do what their author wants.

To add one: a function in a module of this package, whose docstring is its help, and a line in
`LINTS`. A lint that speaks up about good rules is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path

from saeguard.rules.lints import evasion, evidence, names, order, truth, upkeep
from saeguard.rules.lints.finding import Finding, Level, Lint
from saeguard.rules.lints.ignores import Ignores
from saeguard.rules.model import RuleSet

__all__ = ["HELP", "LINTS", "Finding", "Level", "Lint", "lint_rules"]

LINTS = (
    Lint("unused-feature", names.unused_feature),
    Lint("unused-block", names.unused_block),
    Lint("never-true", truth.never_true),
    Lint("always-true", truth.always_true),
    Lint("above-maximum", truth.above_maximum),
    Lint("unreachable-count", names.unreachable_count),
    Lint("regex-glob", upkeep.regex_glob),
    Lint("impossible-order", order.impossible_order),
    Lint("window-beyond-within", order.window_beyond_within),
    Lint("single-token", evidence.single_token),
    Lint("diluted-mean", evidence.diluted_mean),
    Lint("deprecated", upkeep.deprecated),
    Lint("duplicate-rule", upkeep.duplicate_rule),
    Lint("expired-exception", upkeep.expired_exception),
    Lint("expiring-exception", upkeep.expiring_exception),
    Lint("blanket-exception", upkeep.blanket_exception),
    Lint("claimed-exemption", evasion.claimed_exemption),
    Lint("silencing-overlay", upkeep.silencing_overlay),
    Lint("repeated-overlay", upkeep.repeated_overlay),
    Lint("permanent-exception", upkeep.permanent_exception, "note"),
    Lint("optional-stop", evasion.optional_stop, "note"),
    Lint("no-falsepositives", upkeep.no_falsepositives, "note"),
    Lint("bare-message", upkeep.bare_message, "note"),
)


BAD_IGNORE = "bad-ignore"

HELP = {lint.name: lint.help for lint in LINTS} | {
    BAD_IGNORE: "A comment `# saeguard: ignore[lint] reason` that names no lint there is, gives "
    "no reason, or silences nothing. Correct it, or remove it."
}
"""Name of a lint -> what it finds and what to do about it."""


def lint_rules(ruleset: RuleSet, files: Iterable[Path], today: date) -> list[Finding]:
    """Everything the lints have to say, by place; what a comment silences included.

    Args:
        ruleset: what was loaded from the files.
        files: read once more, for the comments in them.
        today: the day, in UTC, on which exceptions have expired or not.
    """
    # A pipe has been read already, and has no comments to give a second time.
    regular = (path for path in files if path.is_file())
    ignores = Ignores({path: path.read_text("utf-8-sig", "replace") for path in regular})
    findings = []
    for lint in LINTS:
        for remark in lint.check(ruleset, today):
            places = [place for place in (remark.location, remark.rule) if place]
            findings.append(
                Finding(
                    remark.location,
                    lint.name,
                    lint.level,
                    remark.message,
                    ignores.reason(lint.name, places),
                )
            )
    return sorted([*findings, *_bad_ignores(ignores)], key=lambda finding: finding.location)


def _bad_ignores(ignores: Ignores) -> Iterator[Finding]:
    known = [lint.name for lint in LINTS]
    for ignore in ignores.all:
        for fault in ignore.faults(known):
            yield Finding(ignore.location, BAD_IGNORE, "warning", fault)
