"""The draft of a rule for a trained probe, with where it comes from in its comments."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from saeguard.integrations.training.aggregates import Aggregate
from saeguard.integrations.training.report import Report, verdict
from saeguard.rules.phases import Phase

HEADING = "# Written by saeguard train-probe"
"""With which every draft begins: one that does may be written again."""

_NAMESPACE = uuid.UUID("5b1d7d0e-6a55-4d0a-8f43-0a3d6c2c9b57")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a draft says of where it comes from."""

    recordings: str
    data: str
    data_sha256: str
    day: date

    def sentence(self, report: Report) -> str:
        """What was learnt from."""
        return (
            f"{report.kind}: {report.chosen}. From {self.recordings} with {self.data} "
            f"(sha256 {self.data_sha256[:12]}) on {self.day}: {report.num_positives} positives, "
            f"{report.num_negatives} negatives, {report.num_groups} groups."
        )


def rule_draft(
    report: Report,
    aggregate: Aggregate,
    phases: Sequence[Phase],
    probe: Path,
    probe_sha256: str,
    draft: Path,
    provenance: Provenance,
) -> str:
    """A rule file; its probe is named relative to it."""
    name = report.name
    path = json.dumps(os.path.relpath(probe, draft.parent))
    title = json.dumps(f"A probe sees {name}")
    return f"""\
{_comments(report, provenance)}
version: 1
ruleset: {{name: {name}, version: 0.1.0}}
features:
  {name}: {{probe: {{path: {path}}}, name: {name}, label: "a {report.kind} probe of {name}"}}
rules:
  - id: {uuid.uuid5(_NAMESPACE, probe_sha256)}{_ignored(aggregate)}
    name: {name}
    title: {title}
    status: experimental
    severity: medium
    scope: {{phase: [{", ".join(map(str, phases))}]}}
    signals:
      score: {{feature: {name}, {aggregate.yaml}, gt: {report.threshold:.6g}}}
    condition: score
    limit: {{per: request, max: 1}}
    message: "{{rule.title}}: {{signal.score.value:.2f}} at token {{signal.score.token!r}}"
    falsepositives: ["About 1 % of requests like the negatives that the threshold was set on"]
"""


def _comments(report: Report, provenance: Provenance) -> str:
    lines = [
        "A draft, to be read and tried before it is used.",
        provenance.sentence(report),
        f"Nested cross-validation, {report.num_folds} folds of groups: AUROC "
        f"{report.figures.auroc}, recall at 1 % false positives {report.figures.recall}.",
        *([verdict(report)] if report.comparison else []),
        "The threshold is what 1 % of the negatives were above in folds that had not seen them;",
        "saeguard calibrate sets one for a budget, on requests of its own.",
    ]
    return "\n".join([f"{HEADING}.", *(f"# {line}" for line in lines)])


def _ignored(aggregate: Aggregate) -> str:
    lint = aggregate.lint
    return f"  # saeguard: ignore[{lint}] chosen by cross-validation" if lint else ""
