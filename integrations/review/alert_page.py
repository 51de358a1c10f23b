"""What the page of one alert shows, gathered from the store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from saeguard.integrations.review import cards, charts, views
from saeguard.integrations.review.calibrations import Calibration
from saeguard.monitor import alert_context, store, verdicts
from saeguard.monitor.alert_context import DAY_NS, HOUR_NS
from saeguard.monitor.alerts import Alert
from saeguard.monitor.verdict_tests import RuleFiles
from saeguard.monitor.verdicts import Said
from saeguard.monitor.watchlist import Watchlist

NUM_OF_TENANT = 5


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the page gets what it shows."""

    store: Path
    rules: RuleFiles | None = None
    """For rule tests; None: they are not known here."""
    watchlist: Watchlist | None = None
    """Says where features come from."""
    no_watchlist: str = "Start with --config to see where features come from."
    """What is said where there is none."""
    calibrations: Sequence[Calibration] = ()
    """What the thresholds of the rules rest on."""


Agreement = Literal["", "agree", "disagree"]


def agreement(said: Sequence[Said]) -> Agreement:
    """Of the reviewers whose words these are, where there are several."""
    opinions = [each.verdict for each in verdicts.judgements(said)]
    if len(opinions) < 2:
        return ""
    return "agree" if len(set(opinions)) == 1 else "disagree"


def alert_values(
    sources: Sources, alert: Alert, said: Sequence[Said], feature: str, is_blind: bool = False
) -> dict[str, Any]:
    """By the names that the template uses.

    Args:
        said: the verdicts on the alert that stand.
        feature: whose scores to show; empty: the one that made the rule fire.
        is_blind: nothing of the rule, and nothing that others have said.

    Raises:
        StoreError: the store cannot be read.
    """
    record = store.get_request(sources.store, alert.req_id) if alert.req_id else None
    values: dict[str, Any] = {
        "alert": alert, "record": record, "is_blind": is_blind, "strip": None, "cards": [],
        "standing": said, "agreement": agreement(said), "opinions": verdicts.opinions(said),
        "history": verdicts.history(sources.store, alert.id),
        "condition": views.condition_lines(alert), "signals": views.signal_rows(alert),
    }  # fmt: skip
    if record is not None and record.features:
        watchlist = sources.watchlist
        is_same = watchlist is not None and watchlist.digest == alert.watchlist
        features = views.features_of(alert, record)
        chosen = feature if feature in features else features[0]
        strip = views.strip_of(alert, record, chosen, is_blind)
        values |= {
            "features": features,
            "strip": strip,
            "chart": charts.score_chart(strip),
            "cards": cards.cards_of(
                sources.store, alert, record, watchlist if is_same else None, sources.calibrations
            ),
            "source_note": _source_note(sources, is_same),
        }
    return values if is_blind else values | _context(sources.store, alert)


def _source_note(sources: Sources, is_same: bool) -> str:
    """Why the cards do not say where features come from."""
    if sources.watchlist is None:
        return sources.no_watchlist
    return "" if is_same else "The scores are of another watchlist than the one configured."


def _context(path: Path, alert: Alert) -> dict[str, Any]:
    now_ns = time.time_ns()
    is_recent = now_ns - DAY_NS <= alert.time_ns <= now_ns
    until_ns = now_ns if is_recent else alert.time_ns + HOUR_NS
    hours = alert_context.hours_of_rule(path, alert.rule_name, until_ns)
    return {
        "is_recent": is_recent,
        "hours": charts.hour_bars(hours, alert.time_ns),
        "hours_from_ns": hours[0].begin_ns,
        "hours_until_ns": until_ns,
        "num_in_hours": sum(hour.num_alerts for hour in hours),
        "most_in_hour": max(hour.num_alerts for hour in hours),
        "same_request": alert_context.same_request(path, alert),
        "same_tenant": alert_context.same_tenant(path, alert, NUM_OF_TENANT),
    }
