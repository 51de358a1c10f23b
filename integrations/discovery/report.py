"""What `saeguard discover` shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table

from saeguard.integrations.discovery.accuracy import Measure
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.draft import measure, verdict
from saeguard.integrations.discovery.effects import Effect
from saeguard.integrations.discovery.evidence import Evidence
from saeguard.integrations.discovery.search import Discovery, Settings
from saeguard.monitor.cli.alert_views import safe
from saeguard.rules.calibration.intervals import Rate
from saeguard.rules.quantity import quantity

_FEW_GROUPS = 20


def as_text(
    corpus: Corpus, found: Discovery, evidences: Sequence[Evidence], settings: Settings
) -> Iterator[RenderableType]:
    """For people."""
    yield from _about(corpus, found, settings)
    yield _judged(found)
    yield ""
    yield verdict(found)
    for chosen, shown in zip(found.chosen, evidences, strict=True):
        candidate = chosen.candidate
        weight = f", weight {chosen.weight:+.4g}" if len(found.chosen) > 1 else ""
        yield safe(f"feature {candidate.feature}{weight}", "bold")
        yield (
            f"  AUROC {chosen.train_auroc:.3f} on the training side, "
            f"{measure(chosen.held_out.auroc)} held out; contrast {candidate.contrast:.1f}, "
            f"q {candidate.q:.2g}; chosen in {chosen.num_splits} of {len(found.splits)} splits"
        )
        positives, negatives = shown.density
        yield f"  not 0 on {positives:.1%} of the positives' tokens, {negatives:.1%} of the others'"
        tokens = ", ".join(f"{t.text!r} {t.mean:.2f} ({t.count})" for t in shown.tokens)
        yield safe(f"  highest on {tokens}")
        for example in shown.examples:
            kind = "positive" if example.label else "negative"
            text = f"{example.before}»{example.token}«{example.after}"
            place = f"{example.request_id}, token {example.position}"
            yield safe(f"    {example.value:7.2f}  {kind}  {place}:  {text!r}")
    yield ""
    yield (
        f"threshold {found.alarm.threshold:.4g} ({found.features.agg}): held out it finds "
        f"{_rate(found.alarm.recall)}, with false alarms in {_rate(found.alarm.false_alarms)}"
    )


def _about(corpus: Corpus, found: Discovery, settings: Settings) -> Iterator[str]:
    num_groups = len(set(corpus.groups))
    num_positives = int(corpus.labels.sum())
    yield (
        f"{quantity(num_positives, 'positive')} and "
        f"{quantity(len(corpus) - num_positives, 'negative')} in {quantity(num_groups, 'group')}; "
        f"{quantity(corpus.num_left_out, 'recorded request')} without a label, or a token of the "
        "phase"
    )
    if num_groups < _FEW_GROUPS:
        yield f"with {quantity(num_groups, 'group')} chance is hard to tell: label more of them"
    if not found.is_source_controlled:
        yield "sources were not controlled for: in most of them all labels are the same"
    yield (
        f"{quantity(found.num_found, 'feature')} beyond chance (false-discovery rate "
        f"{settings.max_q:g}), length and position apart"
    )


def _judged(found: Discovery) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("fitted without the groups that it is judged on")
    for name in (
        "AUROC, training",
        "AUROC, held out",
        "over the best feature",
        "recall at 1 % false alarms",
    ):
        table.add_column(name, justify="right")
    for each in found.judged:
        held_out = each.held_out
        table.add_row(
            safe(each.name),
            f"{each.train_auroc:.3f}",
            measure(held_out.auroc),
            "" if each.gain is None else _signed(each.gain),
            measure(held_out.recall),
        )
    return table


def _signed(found: Measure) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _rate(rate: Rate) -> str:
    return f"{rate.count} of {rate.total} [{rate.low:.3f}, {rate.high:.3f}]"


def as_json(found: Discovery, evidences: Sequence[Evidence], effects: Sequence[Effect] = ()) -> str:
    """For programs."""
    values: dict[str, Any] = {
        "hook_point": str(found.block.hook_point),
        "num_found": found.num_found,
        "is_source_controlled": found.is_source_controlled,
        "ranked": [asdict(candidate) for candidate in found.ranked],
        "set": asdict(found.features),
        "chosen": [
            {**asdict(chosen), "evidence": asdict(shown)}
            for chosen, shown in zip(found.chosen, evidences, strict=True)
        ],
        "alarm": asdict(found.alarm),
        "judged": [asdict(judged) for judged in found.judged],
        "effects": [asdict(effect) for effect in effects],
    }
    return json.dumps(values, indent=1)


def causal_text(effects: Sequence[Effect]) -> Iterator[RenderableType]:
    """Of the causal check; of several random draws the mean and the range."""
    if not effects:
        return
    for on_positives, title in ((True, "positive"), (False, "negative")):
        table = Table(box=None, pad_edge=False)
        table.add_column(f"{title} prompts, what is done to every token")
        for name in ("lies", "answers changed", "nats per token"):
            table.add_column(name, justify="right")
        for effect in effects:
            if effect.on_positives == on_positives:
                nats = effect.surprise
                table.add_row(
                    effect.name,
                    _shown(effect.harmful),
                    _shown(effect.changed),
                    f"{np.mean(nats):+.3f}"
                    + (f" [{min(nats):+.3f} to {max(nats):+.3f}]" if len(nats) > 1 else ""),
                )
        yield ""
        yield table


def _shown(rates: Sequence[Rate]) -> str:
    if not rates:
        return "-"
    if len(rates) == 1:
        (rate,) = rates
        return f"{rate.share or 0:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    shares = [rate.share or 0.0 for rate in rates]
    return f"{np.mean(shares):.3f} [{min(shares):.3f} to {max(shares):.3f}]"
