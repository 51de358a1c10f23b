"""`saeguard calibrate`."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from saeguard.monitor.cli import labelled
from saeguard.monitor.cli.backtest import rate
from saeguard.monitor.cli.recordings import read_requests
from saeguard.monitor.cli.sample_below import sample_below
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.rules import Rule, RuleSet, Signal
from saeguard.rules.calibration.budget import Budget, Calibration, Chosen, calibrate
from saeguard.rules.calibration.labels import Example
from saeguard.rules.calibration.peaks import only_columns, peaks_as_json, peaks_of
from saeguard.rules.calibration.rewrite import CannotRewrite, set_threshold
from saeguard.rules.calibration.statistics import as_json, statistics_of
from saeguard.rules.calibration.sweep import CannotSweep, Sweep, find_signal, sweep
from saeguard.rules.errors import did_you_mean
from saeguard.rules.loading.sources import PACKS
from saeguard.rules.quantity import quantity
from saeguard.rules.recordings.offline import RecordingError


@dataclass(frozen=True, slots=True)
class _Done:
    rule: Rule
    signal: Signal
    found: Sweep
    result: Calibration


def run(
    items: labelled.ItemsArgument,
    data: Annotated[
        Path | None,
        typer.Option(help="What is known of the requests: JSON lines with id and label."),
    ] = None,
    max_false_alarms: Annotated[
        str | None,
        typer.Option(metavar="N/M", help="The budget: 1/1000req, or 2/1Mtok for tokens."),
    ] = None,
    below: Annotated[
        int | None,
        typer.Option(
            "--sample-below",
            min=1,
            metavar="N",
            help="Instead: print N requests without a label from the nearest below the threshold.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what --sample-below draws.")] = 0,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE[:SIGNAL]", help="Which to set; repeatable. Default: all."),
    ] = None,
    confidence: Annotated[
        float, typer.Option(help="That the true rate is within the budget.")
    ] = 0.95,
    positive: labelled.PositiveOption = None,
    split: labelled.SplitOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Change the rule files; else the change is shown.")
    ] = False,
) -> None:
    """Set thresholds by what they may cost in false alarms.

    Exit code: 0 all were set, 1 the data is not enough for the budget or a rule, 2 wrong usage,
    rules, recordings or labels.
    """
    rules, files = labelled.split_items(items)
    if below is not None:
        _sample(rules, files, data, rule, below, seed)
        return
    if data is None or max_false_alarms is None:
        raise typer.BadParameter("give --data and --max-false-alarms, or --sample-below")
    try:
        budget = Budget.parse(max_false_alarms, confidence)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    matched = labelled.read_examples(files, data, positive, split)
    ruleset = read_rules(rules)
    print(labelled.describe(matched))
    labelled.warn_of_other_watchlists(ruleset, labelled.watchlists_of(matched.examples))
    try:
        done = [
            _calibrate(ruleset, one, signal, matched.examples, budget)
            for one, signal in _wanted(ruleset, rule)
        ]
    except RecordingError as error:
        raise ConfigError(str(error), "record it with a watchlist of these rules") from error
    for each in done:
        print("\n".join(_report(each)))
    _deliver([each for each in done if each.result.chosen], data, matched.examples, write)
    raise typer.Exit(0 if all(each.result.chosen for each in done) else 1)


def _sample(
    rules: list[str],
    files: list[Path],
    data: Path | None,
    names: list[str] | None,
    number: int,
    seed: int,
) -> None:
    ruleset = read_rules(rules)
    wanted = list(_wanted(ruleset, names))
    if len(wanted) != 1:
        raise ConfigError("requests are drawn for one rule", "name it: --rule RULE[:SIGNAL]")
    ((rule, signal),) = wanted
    known = {label.id for label in labelled.read_known(data)} if data else set()
    try:
        requests = read_requests(files)
        sample_below(ruleset, rule, signal, requests, known, number, seed)
    except RecordingError as error:
        raise ConfigError(str(error), "record it with a watchlist of these rules") from error


def _wanted(ruleset: RuleSet, names: list[str] | None) -> Iterator[tuple[Rule, Signal]]:
    """The signals that are named as `rule` or `rule:signal`, or one of each rule that has one."""
    rules = {rule.name: rule for rule in ruleset.rules if rule.signals}
    for written in names or rules:
        name, _, signal = written.partition(":")
        if name not in rules:
            hint = did_you_mean(name, rules)
            raise ConfigError(f"no rule '{name}' with signals{hint}; there are {', '.join(rules)}")
        try:
            yield rules[name], find_signal(rules[name], signal or None)
        except CannotSweep as error:
            raise ConfigError(str(error), "name it: --rule RULE:SIGNAL") from error


def _calibrate(
    ruleset: RuleSet, rule: Rule, signal: Signal, examples: Sequence[Example], budget: Budget
) -> _Done:
    known = [example for example in examples if example.counts_for(rule.name)]
    if not known:
        raise ConfigError(f"no label says whether {rule.name} should alert", "name others: --rule")
    found = sweep(ruleset, rule, signal, known)
    return _Done(rule, signal, found, calibrate(found, known, budget))


def _report(done: _Done) -> Iterator[str]:
    result, key = done.result, f"{done.rule.name}: {done.signal.name} {done.signal.comparison}"
    yield ""
    yield f"{key} {_what(result.before, result)} (now)"
    if result.chosen:
        yield f"{key} {_what(result.chosen, result)} (set)"
    else:
        yield f"{key}: no threshold keeps {result.budget.written}; nothing is changed"
    if not result.has_enough:
        yield (
            f"  not enough: {quantity(result.num_negatives, 'negative ' + _noun(result))}; for "
            f"{result.budget.written} at {result.budget.confidence:g} it takes "
            f"{result.num_needed} without a single false alarm"
        )
    if not done.found.is_monotone:
        yield "  a looser threshold can take matches away here, so the bound is an estimate only"


def _what(choice: Chosen, result: Calibration) -> str:
    scale, unit = (1e6, "million tokens") if result.counted == "tokens" else (
        1e3, f"1,000 {result.counted}"
    )  # fmt: skip
    return (
        f"{choice.threshold:g}: {quantity(choice.false_alarms, 'false alarm')} in "
        f"{quantity(result.num_negatives, _noun(result))}, so at most "
        f"{scale * choice.bound:.3g} per {unit}; recall {rate(choice.recall)}"
    )


def _noun(result: Calibration) -> str:
    return result.counted.removesuffix("s")


def _deliver(done: Sequence[_Done], data: Path, examples: Sequence[Example], write: bool) -> None:
    """Show the change of each file, or make it and leave a record beside it."""
    by_file: dict[Path, list[_Done]] = {}
    for each in done:
        by_file.setdefault(each.rule.location.path, []).append(each)
    for path, of_file in by_file.items():
        if PACKS in path.parents:
            raise ConfigError(f"{path}: is a pack's", "set the threshold by an overlay of your own")
        before = path.read_text(encoding="utf-8")
        after = _rewritten(before, path, of_file)
        print()
        if not write:
            old, new = before.splitlines(True), after.splitlines(True)
            print("".join(difflib.unified_diff(old, new, str(path), str(path), n=1)), end="")
            continue
        record = path.with_suffix(".calibration.json")
        _replace(path, after)
        _replace(record, json.dumps(_record(of_file, data, examples), indent=1) + "\n")
        print(f"{path}: {quantity(len(of_file), 'threshold')} set; how: {record}")
    if done and not write:
        print("nothing was written; --write does")


def _rewritten(text: str, path: Path, done: Sequence[_Done]) -> str:
    try:
        for each in done:
            assert each.result.chosen is not None
            threshold = each.result.chosen.threshold
            text = set_threshold(text, path, each.rule, each.signal, threshold)
    except CannotRewrite as error:
        raise ConfigError(str(error)) from error
    return text


def _replace(path: Path, text: str) -> None:
    """In one move, so that a server that watches the file never meets half of it."""
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error


def _record(done: Sequence[_Done], data: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """What the thresholds rest on; it goes with the rules."""
    return {
        "version": 1,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": {"file": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()},
        "watchlists": labelled.watchlists_of(examples),
        **_features(done, examples),
        "rules": {
            each.rule.name: {"signal": each.signal.name, **asdict(each.result)} for each in done
        },
    }


def _features(done: Sequence[_Done], examples: Sequence[Example]) -> dict[str, Any]:
    """How the scores of the features that the rules read are distributed."""
    names = list(dict.fromkeys(name for each in done for name in each.rule.features))
    requests = [only_columns(example.request, names) for example in examples]
    return {
        "statistics": as_json(statistics_of(requests, [example.group for example in examples])),
        "peaks": peaks_as_json(peaks_of(requests, [labelled.is_positive(e) for e in examples])),
    }
