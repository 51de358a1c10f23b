"""`saeguard train-probe`."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from saeguard.integrations.probes.file import write_probe_file
from saeguard.integrations.training.candidates import Kind
from saeguard.integrations.training.cross_fit import num_fits
from saeguard.integrations.training.draft import HEADING, Provenance, rule_draft
from saeguard.integrations.training.material import Material, gather, only_phases
from saeguard.integrations.training.rivals import Rival
from saeguard.integrations.training.rule_rival import RuleRival
from saeguard.integrations.training.sae_rival import SaeRival
from saeguard.integrations.training.training import Trained, split, train
from saeguard.integrations.training.view import as_text
from saeguard.monitor.cli import labelled
from saeguard.monitor.cli import recordings as shared
from saeguard.monitor.config import read_rules
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules.calibration.labels import Example, LabelError, match_labels, read_labels
from saeguard.rules.loading.sources import is_pack
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.recordings.recording import read_recordings

_YAML = (".yaml", ".yml")


def train_probe(
    recordings: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORDING...",
            help="Captured activations: directories that `saeguard capture --activations` made, or "
            "files of them.",
        ),
    ],
    data: labelled.DataOption,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The probe; its rule is written beside it.")
    ] = Path("probe.safetensors"),
    kind: Annotated[Kind, typer.Option(help="What the probe computes.")] = "linear",
    hook_point: Annotated[
        list[str] | None,
        typer.Option(help="Where it may be read; repeatable. Default: wherever was captured."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="What it is compared with: rules, or the directory of an SAE."),
    ] = None,
    against_rule: Annotated[
        str | None,
        typer.Option(
            metavar="RULE[:SIGNAL]",
            help="Of these rules. Default: the best that reads features of SAEs only.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What is looked for: of labels, probe and rule. Default: OUTPUT's."),
    ] = None,
    phase: Annotated[
        list[str] | None, typer.Option(help="Whose tokens count; repeatable. Default: answer.")
    ] = None,
    folds: Annotated[int, typer.Option(min=3, help="Of the groups, held out in turn.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the folds, and of what starts at random.")] = 0,
    positive: labelled.PositiveOption = None,
    split_: Annotated[
        str | None, typer.Option("--split", help="Use the labels of this split only.")
    ] = None,
    format_: shared.FormatOption = shared.Format.TEXT,
) -> None:
    """Train a probe on captured activations, and say what it is worth.

    Hook point, penalty and aggregate are chosen by cross-validation within cross-validation:
    requests of one group are never both learnt or chosen from and measured on.

    Exit code: 0 it was trained, 2 wrong usage, recordings or labels.
    """
    name = _name(name or re.sub(r"\W+", "_", output.stem).lower().strip("_"))
    phases = _phases(phase or ["answer"])
    draft = _draft_beside(output)
    rival = None if against is None else _rules(against, against_rule)
    examples = _read(recordings, data, phases, positive, split_, rival)
    material = gather(examples, name, _hook_points(hook_point or ()), phases)
    of_folds = split(material, folds, seed)
    compared = _rival(against, rival, material)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("fits", total=num_fits(folds))
        trained = train(
            material, kind, name, of_folds, seed, compared, lambda: progress.advance(task)
        )
    _write(trained, output, draft, phases, recordings, data)
    if format_ is shared.Format.JSON:
        json.dump(asdict(trained.report), sys.stdout, indent=1)
        print()
        return
    shared.console().print(as_text(trained.report))
    print(f"wrote {output}, and a rule for it: {draft}")


def _name(text: str) -> str:
    """Of a feature and of a rule.

    Raises:
        ConfigError: rules could not call it so.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", text):
        raise ConfigError(f"{text!r} is no snake_case name of at most 64 characters", "give --name")
    return text


def _draft_beside(output: Path) -> Path:
    """Where the rule goes; asked before the work, not after it.

    Raises:
        ConfigError: one of the two cannot be written, or somebody's own rules stand there.
    """
    if output.suffix != ".safetensors":
        raise ConfigError(f"{output}: a probe's file ends in .safetensors", "name another --output")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: there is no directory {output.parent}", "make it first")
    draft = output.with_suffix(".yaml")
    if draft.exists() and not draft.read_bytes().startswith(HEADING.encode()):
        raise ConfigError(
            f"{draft}: is in the way of the rule draft, and was not written by train-probe",
            "move it, or name another --output",
        )
    return draft


def _phases(names: Sequence[str]) -> list[Phase]:
    try:
        return sorted({Phase.parse(name) for name in names})
    except ValueError as error:
        raise ConfigError(str(error), "see --phase") from error


def _hook_points(names: Sequence[str]) -> list[HookPoint]:
    return [HookPoint.parse(name) for name in dict.fromkeys(names)]


def _rules(against: str, wanted: str | None) -> RuleRival | None:
    """None where it is an SAE."""
    path = Path(against)
    is_sae = path.is_dir() and not any(child.suffix in _YAML for child in path.iterdir())
    if is_sae or not (is_pack(against) or path.is_dir() or path.suffix in _YAML):
        return None
    return RuleRival(read_rules([against]), wanted)


def _rival(against: str | None, rules: RuleRival | None, material: Material) -> Rival | None:
    if against is None:
        return None
    if rules is None:
        return SaeRival(Path(against), material)
    rules.judge(material.ids)
    return rules


def _read(
    recordings: Sequence[str],
    data: Path,
    phases: Sequence[Phase],
    positive: Sequence[str] | None,
    wanted: str | None,
    rules: RuleRival | None,
) -> Sequence[Example]:
    """Labelled requests, without the tokens of other phases; those the rules have seen first."""
    try:
        labels = read_labels(data)
        known = {label.id for label in labels if wanted in (None, label.split)}
        requests = (r for r in _requests(recordings) if r.context.id in known)
        seen = requests if rules is None else _seen(requests, rules)
        return match_labels(only_phases(seen, phases), labels, positive or (), wanted).examples
    except LabelError as error:
        raise ConfigError(str(error)) from error


def _seen(requests: Iterable[RecordedRequest], rules: RuleRival) -> Iterator[RecordedRequest]:
    for request in requests:
        rules.watch(request)
        yield request


def _requests(recordings: Sequence[str]) -> Iterator[RecordedRequest]:
    """One file at a time: all tokens of all of them may be more than memory holds."""
    for item in recordings:
        paths = labelled.recordings_in(item)
        if not paths:
            raise ConfigError(f"{item}: is no recording, and no directory that has one")
        for path in paths:
            try:
                yield from read_recordings(path)
            except RecordingError as error:
                raise ConfigError(str(error)) from error


def _write(
    trained: Trained,
    output: Path,
    draft: Path,
    phases: Sequence[Phase],
    recordings: Sequence[str],
    data: Path,
) -> None:
    provenance = Provenance(
        recordings=", ".join(Path(item).name for item in recordings),
        data=data.name,
        data_sha256=hashlib.sha256(data.read_bytes()).hexdigest(),
        day=datetime.now(UTC).date(),
    )
    report, fitted = trained.report, trained.fitted
    about = {"training": provenance.sentence(report), "figures": asdict(report.figures)}
    write_probe_file(output, fitted.hook_point, {report.name: fitted.probe}, about)
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    text = rule_draft(
        trained.report, trained.candidate.aggregate, phases, output, digest, draft, provenance
    )
    try:
        draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{draft}: cannot be written: {error.strerror or error}") from error
