"""Verdicts of people who review alerts in Phoenix: annotations of one name on the alerts' spans."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from saeguard.integrations.otel.mapping import span_id
from saeguard.integrations.phoenix.server import Annotation, PhoenixError, PhoenixServer
from saeguard.monitor.store import alert_ids
from saeguard.monitor.verdicts import JUDGEMENTS, Said, add_missing

LABELS = tuple(word.replace("_", " ") for word in JUDGEMENTS)
"""What Phoenix offers its reviewers; the verdicts are the same with `_`."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What became of the annotations on a store's alerts."""

    num_alerts: int
    """In the store."""
    num_new: int
    num_known: int
    """That the store had already."""
    num_not_human: int
    unknown_labels: dict[str, int]
    """Label that is no verdict -> annotations; the empty one is of those without."""


def set_up(server: PhoenixServer, project: str, name: str) -> None:
    """Offers the verdicts to whoever looks at a span of the project; does nothing twice.

    Raises:
        PhoenixError: the server is away or refuses, or has other labels under this name.
    """
    if not server.has_project(project):
        server.make_project(project)
    found = server.labels(name)
    if found is None:
        server.make_labels(name, LABELS, "What the alert was.")
    elif missing := [label for label in LABELS if label not in found]:
        raise PhoenixError(
            f"Phoenix has an annotation config {name!r} without {', '.join(missing)}",
            "add them to it in Phoenix's settings, or choose another --annotation",
        )
    server.offer_labels(name, project)


def pull(server: PhoenixServer, project: str, store: Path, name: str) -> Pulled:
    """Writes what the store lacks. Pulling again changes nothing; a verdict that was changed in
    Phoenix follows the one before.

    Raises:
        PhoenixError: the server is away or refuses, or has no such project.
        StoreError: the store cannot be read or written.
    """
    alert_of = {f"{span_id(alert_id):016x}": alert_id for alert_id in alert_ids(store)}
    if not server.has_project(project):
        known = ", ".join(server.project_names())
        raise PhoenixError(f"Phoenix has no project {project!r}", f"it has {known}")
    found = list(server.annotations(project, list(alert_of), name))
    human = [each for each in found if each.annotator_kind == "HUMAN"]
    unknown = Counter(_label(each) for each in human if _label(each) not in LABELS)
    said = [
        _said(each, alert_of[each.span_id])
        for each in sorted(human, key=lambda annotation: annotation.updated_at)
        if _label(each) in LABELS
    ]
    num_new = add_missing(store, said)
    return Pulled(
        num_alerts=len(alert_of),
        num_new=num_new,
        num_known=len(said) - num_new,
        num_not_human=len(found) - len(human),
        unknown_labels=dict(unknown),
    )


def _said(annotation: Annotation, alert_id: str) -> Said:
    return Said(
        alert_id=alert_id,
        verdict=_label(annotation).replace(" ", "_"),
        comment=(annotation.result and annotation.result.explanation) or "",
        reviewer=_reviewer(annotation),
        time_ns=int(annotation.updated_at.timestamp() * 1e9),
    )


def _label(annotation: Annotation) -> str:
    """As in `LABELS`, however its case and its spaces are written."""
    label = (annotation.result and annotation.result.label) or ""
    return " ".join(label.lower().replace("_", " ").replace("-", " ").split())


def _reviewer(annotation: Annotation) -> str:
    who = annotation.user_id or annotation.identifier
    return f"phoenix:{who}" if who else "phoenix"
