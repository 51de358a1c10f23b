"""A rule of what was found, for people to go on from, with where each number is from."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from saeguard.integrations.discovery.accuracy import Measure
from saeguard.integrations.discovery.corpus import Corpus
from saeguard.integrations.discovery.evidence import Evidence
from saeguard.integrations.discovery.pooling import WINDOW
from saeguard.integrations.discovery.sae_features import Sae
from saeguard.integrations.discovery.search import Chosen, Discovery, Settings
from saeguard.rules.calibration.intervals import Rate

_LONGEST_TOKEN = 20


@dataclass(frozen=True, slots=True)
class Origin:
    """What a draft rests on."""

    sae: Sae
    data: Path
    data_sha256: str
    recordings: tuple[Path, ...]
    settings: Settings


def rule_name(path: Path) -> str:
    """From the name of the draft's file."""
    plain = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    return (plain if plain[:1].isalpha() else f"rule_{plain}")[:40]


def draft(
    path: Path, corpus: Corpus, found: Discovery, evidences: Sequence[Evidence], origin: Origin
) -> str:
    """The text of a rule file at `path`."""
    name = rule_name(path)
    lines = [f"# {line}".rstrip() for line in _provenance(corpus, found, origin)]
    lines += [
        "version: 1",
        f"ruleset: {{name: {name.replace('_', '-')}, version: 0.1.0}}",
        *_features(path, name, found, evidences, origin),
    ]
    alarm, agg = found.alarm, found.features.agg
    read = f"feature: {read_name(name, found)}, agg: {agg}, window: {WINDOW} tokens"
    pieces = "mean of a window" if agg == "mean" else "highest token"
    lines += [
        "rules:",
        f"  - id: {uuid.uuid4()}  # saeguard: ignore[single-token] the threshold was set for this",
        f"    name: {name}",
        f"    title: {name.replace('_', ' ').capitalize()}",
        "    description: >-",
        "      Found by `saeguard discover`, not yet reviewed: its figures are of the data above,",
        "      and hold for such data.",
        "    status: experimental",
        "    severity: medium",
        f"    scope: {{phase: [{corpus.phase}]}}",
        "    signals:",
        f"      # As discovered: gte {alarm.threshold:g}, which at most "
        f"{origin.settings.max_false:.1%} of the negatives reach;",
        f"      # held out {_rate(alarm.recall)} positives do and {_rate(alarm.false_alarms)} "
        "negatives.",
        f"      score: {{{read}, gte: {alarm.threshold:g}}}",
        "    condition: score",
        "    limit: {per: request, max: 1}",
        f'    message: "{{rule.title}}: {pieces} {{signal.score.value:.2f}} at '
        '{signal.score.token!r}"',
        "    tags: [site.discovered]",
        "    falsepositives: []",
    ]
    return "\n".join(lines) + "\n"


def read_name(name: str, found: Discovery) -> str:
    """What the rule calls the feature, or the set."""
    features = found.features.features
    return f"{name}_{features[0]}" if len(features) == 1 else f"{name}_set"


def probe_path(path: Path) -> Path:
    """Where the set is that a draft at `path` reads."""
    return path.with_suffix(".probe.safetensors")


def _features(
    path: Path, name: str, found: Discovery, evidences: Sequence[Evidence], origin: Origin
) -> Iterator[str]:
    """The SAE's one feature, or a probe that is several of them."""
    abouts = [
        [f"  # {line}" for line in _of_feature(chosen, shown, len(found.splits))]
        for chosen, shown in zip(found.chosen, evidences, strict=True)
    ]
    read = read_name(name, found)
    if len(abouts) == 1:
        index, label = found.features.features[0], _label(evidences[0])
        yield f"x-sae: &sae {_sae(path, origin.sae)}"
        yield "features:"
        yield from abouts[0]
        yield f"  {read}: {{sae: *sae, index: {index}, label: {label}}}"
        return
    yield "features:"
    yield "  # A weighted sum of how far these features are above their thresholds:"
    for chosen, about in zip(found.chosen, abouts, strict=True):
        yield f"  # {chosen.weight:+.4g} x feature {chosen.candidate.feature}"
        yield from (line.replace("  # ", "  #   ", 1) for line in about)
    probe = _quoted(probe_path(path).name)
    label = f"a set of {len(abouts)} features of {origin.sae.path.name}"
    yield f"  {read}: {{probe: {{path: {probe}}}, name: {read}, label: {_quoted(label)}}}"


def _provenance(corpus: Corpus, found: Discovery, origin: Origin) -> Iterator[str]:
    split = found.splits[0]
    num_groups = len(set(corpus.groups))
    yield f"A draft, to be reviewed: by `saeguard discover`, {datetime.now(UTC):%Y-%m-%d}."
    yield f"data        {origin.data.name}, sha256 {origin.data_sha256}"
    yield f"recordings  {', '.join(sorted({str(p.parent.name) for p in origin.recordings}))}"
    yield f"SAE         {origin.sae.path.name}, sha256 {found.block.sha256}"
    yield (
        f"requests    {int(corpus.labels.sum())} positives and {int((~corpus.labels).sum())} "
        f"negatives in {num_groups} groups"
    )
    yield (
        f"split       {split.name}: chosen on {int(split.train.sum())} requests, judged on "
        f"{int(split.test.sum())} of other groups; seed {origin.settings.seed}"
    )
    controls = "length, position and source" if found.is_source_controlled else "length, position"
    yield f"controls    {controls}; {found.num_found} features at a false-discovery rate of "
    yield f"            {origin.settings.max_q:g}"
    for judged in found.judged:
        yield (
            f"held out    {judged.name}: AUROC {measure(judged.held_out.auroc)}, "
            f"recall at 1 % false alarms {measure(judged.held_out.recall)}"
        )
    yield f"verdict     {verdict(found)}"
    if found.block.inexact_reason:
        yield f"inexact     {found.block.inexact_reason}"


def _of_feature(chosen: Chosen, shown: Evidence, num_splits: int) -> Iterator[str]:
    fires = ", ".join(repr(_short(token.text)) for token in shown.tokens) or "nothing"
    yield (
        f"AUROC {chosen.train_auroc:.3f} where it was chosen, "
        f"{measure(chosen.held_out.auroc)} held out; chosen in {chosen.num_splits} of {num_splits}"
    )
    positives, negatives = shown.density
    yield f"not 0 on {positives:.1%} of the positives' tokens, {negatives:.1%} of the negatives'"
    yield f"highest on {fires}".encode("unicode_escape").decode()


def verdict(found: Discovery) -> str:
    """Whether the set is better than its best feature; one sentence."""
    num = len(found.features.features)
    if num == 1:
        return "no set was better than the best feature on the training side: it is read alone"
    gain = next(judged.gain for judged in found.judged if judged.name == found.set_name)
    assert gain is not None
    by = f"its AUROC is {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] of the best feature's"
    if gain.low > 0:
        return f"the set of {num} is better than the best feature held out: {by}"
    return f"the set of {num} is not shown to be better than the best feature held out: {by}"


def measure(found: Measure) -> str:
    """`.95 [.92, .98]`"""
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _rate(rate: Rate) -> str:
    return f"{rate.count} of {rate.total}"


def _label(shown: Evidence) -> str:
    words = " ".join(_short(token.text).strip() for token in shown.tokens[:3])
    return _quoted(f"candidate, highest on: {words}" if words else "candidate")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TOKEN else text[:_LONGEST_TOKEN] + "…"


def _sae(path: Path, sae: Sae) -> str:
    """Relative to the draft, as the rule language wants it."""
    values = [f"path: {_quoted(os.path.relpath(sae.path.absolute(), path.absolute().parent))}"]
    if sae.layer is not None:
        values.append(f"layer: {sae.layer}")
    if sae.norm_scaling_factor is not None:
        values.append(f"norm_scaling_factor: {sae.norm_scaling_factor!r}")
    return f"{{{', '.join(values)}}}"


def _quoted(text: str) -> str:
    return yaml.safe_dump(text, default_style='"', width=10_000, allow_unicode=False).strip()
