"""Recordings whose answers are known, as the commands about thresholds take them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from saeguard.monitor.cli.recordings import read_requests
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError, SaeguardError
from saeguard.monitor.logging import printable
from saeguard.rules import RuleSet
from saeguard.rules.calibration.labels import (
    Answered,
    Example,
    Known,
    Label,
    LabelError,
    Matched,
    match_labels,
    read_labels,
)
from saeguard.rules.quantity import quantity
from saeguard.rules.recordings.recording import SUFFIXES

ItemsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="RULES... RECORDING...",
        help="Rule files, directories and pack:NAME, together one rule set; and recordings: files "
        f"that end in {' or '.join(SUFFIXES)}, or directories of them.",
    ),
]
DataOption = Annotated[
    Path,
    typer.Option(help="What is known of the requests: JSON lines with id and label."),
]
PositiveOption = Annotated[
    list[str] | None,
    typer.Option(help="Where labels are words: one that means that rules should alert."),
]
SplitOption = Annotated[str | None, typer.Option(help="Use the labels of this split only.")]


def split_items(items: Sequence[str]) -> tuple[list[str], list[Path]]:
    """The rules and the recordings among the arguments.

    Raises:
        typer.BadParameter: one of the two is missing.
    """
    recordings: list[Path] = []
    rules = []
    for item in items:
        found = recordings_in(item)
        recordings += found
        if not found:
            rules.append(item)
    if not recordings:
        raise typer.BadParameter(f"give a recording too: a file *{' or *'.join(SUFFIXES)}")
    if not rules:
        raise typer.BadParameter("give rules too: a file, a directory or pack:NAME")
    return rules, recordings


def recordings_in(item: str) -> list[Path]:
    """The recording that an argument names, or those of a directory; none: it is something else."""
    path = Path(item)
    if item.endswith(SUFFIXES):
        return [path]
    return sorted(path.glob("*.safetensors")) if path.is_dir() else []


def read_examples(
    recordings: Sequence[Path], data: Path, positive: Sequence[str] | None, split: str | None
) -> Matched[Example]:
    """The recorded requests with their labels.

    Raises:
        ConfigError: a file cannot be used, or nothing belongs together.
    """
    labels = read_known(data)
    try:
        return match_labels(read_requests(recordings), labels, positive or (), split)
    except LabelError as error:
        raise ConfigError(str(error)) from error


def examples_of(recordings: Sequence[Path], known: Known, ids: Collection[str]) -> list[Example]:
    """The requests of these ids alone, which may be few of many.

    Raises:
        ConfigError: a file cannot be used.
    """
    return [
        example
        for path in recordings
        for request in read_requests([path])
        if request.context.id in ids and (example := known.example(request))
    ]


def read_known(data: Path) -> list[Label]:
    """The labels.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        return read_labels(data)
    except LabelError as error:
        raise ConfigError(str(error)) from error


def known_labels(data: Path, positive: Sequence[str] | None, split: str | None) -> Known:
    """What requests can be joined with.

    Raises:
        ConfigError: the file cannot be used, or there are no such labels.
    """
    try:
        return Known.of(read_known(data), positive or (), split)
    except LabelError as error:
        raise ConfigError(str(error)) from error


def watchlists_of(examples: Sequence[Example]) -> list[str]:
    """Digests of those that the scores are known to be from."""
    return sorted({e.request.watchlist for e in examples} - {""})


def warn_of_other_watchlists(ruleset: RuleSet, found: Sequence[str]) -> None:
    """Say on stderr where scores are of other rows than those of which the rules speak now.

    Args:
        found: digests of the watchlists that the scores are known to be from.
    """
    if found:
        try:
            own = compile_watchlist(ruleset).digest
        except SaeguardError as error:
            reason = error.message.splitlines()[0]
            return _warn(f"whether the scores are of the rules' features is not known: {reason}")
        if others := [digest[:12] for digest in found if digest != own]:
            _warn(
                f"scores are from the watchlist {', '.join(others)}, and these rules compile to "
                f"{own[:12]}: their rows may be others (an SAE, its units or norm_scaling_factor "
                "changed), and then thresholds do not carry over"
            )
    return None


def _warn(text: str) -> None:
    print(f"warning: {printable(text)}", file=sys.stderr)


def is_positive(example: Answered) -> bool:
    """For any rule."""
    answers = example.answers
    return answers if isinstance(answers, bool) else any(answers.values())


def describe(matched: Matched[Any]) -> str:
    """One line: how much there is, and what was left over."""
    positives = sum(is_positive(example) for example in matched.examples)
    negatives = len(matched.examples) - positives
    parts = [f"{quantity(positives, 'positive')} and {quantity(negatives, 'negative')}"]
    groups = len({example.group for example in matched.examples})
    if groups < len(matched.examples):
        parts.append(f"in {quantity(groups, 'group')}")
    if matched.num_in_other_splits:
        parts.append(f"{quantity(matched.num_in_other_splits, 'recorded request')} in other splits")
    if matched.num_unlabelled:
        parts.append(f"{quantity(matched.num_unlabelled, 'recorded request')} without a label")
    if matched.num_unrecorded:
        parts.append(f"{quantity(matched.num_unrecorded, 'label')} without a recorded request")
    return ", ".join(parts)
