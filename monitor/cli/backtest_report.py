"""What `saeguard backtest --html` and `--plots` show, and who writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from saeguard.monitor.cli.captured import Decode, decoder, file_of
from saeguard.monitor.cli.swept import Swept
from saeguard.monitor.errors import ConfigError
from saeguard.rules import RuleSet
from saeguard.rules.calibration.backtest import RuleResult
from saeguard.rules.calibration.curves import Case, RuleReport, cases_of, curves_of
from saeguard.rules.calibration.labels import Example
from saeguard.rules.calibration.sweep import CannotSweep, find_signal, sweep


@dataclass(frozen=True, slots=True)
class Output:
    """A report that is wanted."""

    path: Path
    writer: Callable[..., Any]
    """Takes the path, the reports, lines about them, and patterns of hard negatives' sources."""

    def write(
        self, reports: Sequence[RuleReport], about: Sequence[str], hard: Sequence[str]
    ) -> None:
        """
        Raises:
            ConfigError: it cannot be written.
        """
        try:
            self.writer(self.path, reports, about, hard)
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"{self.path}: cannot be written: {reason}") from error


def outputs(html: Path | None, plots: Path | None) -> list[Output]:
    """Those that are wanted.

    Raises:
        ConfigError: what writes them is not installed, or lacks what it needs.
    """
    wanted = {"html": html, "plots": plots}
    return [Output(path, _writer(kind)) for kind, path in wanted.items() if path is not None]


def _writer(kind: str) -> Callable[..., Any]:
    for entry in entry_points(group="saeguard.reports", name=kind):
        try:
            found: Callable[..., Any] = entry.load()
        except ImportError as error:
            raise ConfigError(f"--{kind}: {error}", "pip install 'saeguard[report]'") from error
        return found
    raise ConfigError(f"--{kind}: no writer of such reports is installed")


def reports_of(
    ruleset: RuleSet,
    examples: Sequence[Example],
    results: Sequence[RuleResult],
    swept: Sequence[Swept],
    signals: dict[str, str | None],
) -> list[RuleReport]:
    """Each result with what comes of sweeping the rule's threshold.

    Args:
        examples: those that are to be swept, at least.
        swept: of each result, which they are.
        signals: of rules of which one of several signals is to be swept, its name.
    """
    decode = decoder({file_of(example.request) for example in examples})
    reports = [
        _report(ruleset, examples, each, of_each, signals.get(each.rule))
        for each, of_each in zip(results, swept, strict=True)
    ]
    return [replace(each, cases=_with_texts(each.cases, decode)) for each in reports]


def _with_texts(cases: Sequence[Case], decode: Decode | None) -> tuple[Case, ...]:
    return tuple(
        case
        if decode is None or case.token_id is None
        else replace(case, token=decode([case.token_id]))
        for case in cases
    )


def _report(
    ruleset: RuleSet,
    examples: Sequence[Example],
    result: RuleResult,
    swept: Swept,
    name: str | None,
) -> RuleReport:
    (rule,) = (rule for rule in ruleset.rules if rule.name == result.rule)
    known = [example for example in examples if example.label.id in swept.for_curves]
    if not known:
        return RuleReport(result, None, "no label says whether this rule should alert", ())
    try:
        signal = find_signal(rule, name)
    except CannotSweep as error:
        return RuleReport(result, None, f"{error} (--rule RULE:SIGNAL)", ())
    found = sweep(ruleset, rule, signal, known)
    curves = curves_of(found, known)
    if wrong := [example for example in examples if example.label.id in swept.for_cases]:
        found = sweep(ruleset, rule, signal, wrong)
    cases = cases_of(found, wrong) if wrong else ()
    return RuleReport(result, curves, "", cases, swept.how_drawn)
