"""`saeguard drift`."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from saeguard.integrations.drift.between import ModelDrift, compare_models
from saeguard.integrations.drift.live import LiveDrift, Sides, compare_live
from saeguard.integrations.drift.model_words import model_report
from saeguard.integrations.drift.words import conclusion, live_report
from saeguard.monitor.cli import recordings as shared
from saeguard.monitor.cli.options import moment_ns
from saeguard.monitor.config import read_rules
from saeguard.rules.calibration.statistics import FeatureStatistics
from saeguard.rules.drift.results import Criteria


def drift(
    items: Annotated[
        list[str],
        typer.Argument(
            metavar="RULES... [REFERENCE RECENT]",
            help="Rule files, directories and pack:NAME; then two recordings, directories of them, "
            "alert stores, or as REFERENCE a calibration record. Of two models: rules only.",
        ),
    ],
    since: Annotated[
        str | None, typer.Option(help="Of RECENT: requests since then, as 24h or a date.")
    ] = None,
    record_share: Annotated[
        float | None,
        typer.Option(help="Of an alert store: what saeguard.yaml has there.", min=0, max=1),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labels: only what is of one source and label is compared."),
    ] = None,
    sae: Annotated[
        Path | None,
        typer.Option(help="Say what this SAE explains of both sides' activations."),
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="A model's directory, with safetensors.")
    ] = None,
    after: Annotated[
        Path | None, typer.Option(help="Another one, or a LoRA adapter of the first.")
    ] = None,
    activations: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="The same requests, captured with the one model and with the other."),
    ] = None,
    material: Annotated[
        float, typer.Option(help="Part of a feature's activity that counts.", min=0, max=1)
    ] = 0.1,
    detect: Annotated[
        float, typer.Option(help="What the data must be able to show for 'none'.", min=0.01, max=1)
    ] = 0.5,
    false_discovery_rate: Annotated[
        float, typer.Option("--fdr", help="Of what is called moved.", min=0.0001, max=0.5)
    ] = 0.05,
    format_: shared.FormatOption = shared.Format.TEXT,
) -> None:
    """Say whether a model has moved away from what its rules were calibrated on.

    Exit code: 0 no drift, 1 drift, or too little data to say that there is none, 2 wrong usage.
    """
    is_json = format_ is shared.Format.JSON
    if before or after or activations:
        if (before is None) != (after is None):
            raise typer.BadParameter("--before and --after belong together")
        ruleset = read_rules(items)
        models = (before, after) if before and after else None
        found = compare_models(ruleset, models, activations, data)
        if is_json:
            print(json.dumps({"moved": found.moved} | plain(found), indent=1))
        else:
            shared.console().print(Group(*model_report(found, ruleset)))
        raise typer.Exit(1 if found.has_moved or _has_too_few(found) else 0)
    if len(items) < 3:
        raise typer.BadParameter("give RULES, REFERENCE and RECENT; or --before and --after")
    *rules, reference, recent = items
    sides = Sides(
        Path(reference), Path(recent), data, record_share, moment_ns(since) if since else 0
    )
    criteria = Criteria(false_discovery_rate, material, detect)
    ruleset = read_rules(rules)
    live = compare_live(ruleset, sides, criteria, sae)
    if is_json:
        print(json.dumps(_summary(live) | plain(live), indent=1))
    else:
        shared.console().print(Group(*live_report(live, ruleset, criteria)))
    raise typer.Exit(1 if live.has_moved or live.is_unsure else 0)


def _has_too_few(found: ModelDrift) -> bool:
    return found.paired is not None and not found.paired.has_enough


def _summary(live: LiveDrift) -> dict[str, Any]:
    verdict = "drift" if live.has_moved else "too_little" if live.is_unsure else "none"
    return {"verdict": verdict, "conclusion": conclusion(live)}


def plain(value: Any) -> Any:
    """As JSON has it; what is not finite is null."""
    if isinstance(value, FeatureStatistics):
        return value.as_json()
    if isinstance(value, Enum):
        return str(value)
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
