"""What else the store knows around an alert: the same request, the same rule, the same tenant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saeguard.monitor.alerts import Alert, decode_alert
from saeguard.monitor.store_file import reading

HOUR_NS = 3_600_000_000_000
DAY_NS = 24 * HOUR_NS
NUM_SEARCHED = 2000
"""Of the newest alerts, for those of a tenant, which no index finds."""
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Hour:
    """How many alerts a rule raised in one hour."""

    begin_ns: int
    num_alerts: int

    def covers(self, time_ns: int) -> bool:
        return self.begin_ns <= time_ns < self.begin_ns + HOUR_NS


def same_request(path: Path, alert: Alert) -> list[Alert]:
    """The other alerts of its request, oldest first; none for the monitor's own health.

    Raises:
        StoreError: the store cannot be read; so for all below.
    """
    if not alert.req_id:
        return []
    query = "SELECT body FROM alerts WHERE req_id = ? AND id != ? ORDER BY row"
    with reading(path) as db:
        rows = db.execute(query, (alert.req_id, alert.id)).fetchall()
    return [decode_alert(body) for (body,) in rows]


def hours_of_rule(path: Path, rule: str, until_ns: int) -> list[Hour]:
    """How many alerts it raised in each of the 24 hours before `until_ns`, the oldest first."""
    begin_ns = until_ns - DAY_NS
    query = """SELECT (time_ns - ?1) / ?2, count(*) FROM alerts
        WHERE rule = ?3 AND time_ns >= ?1 AND time_ns < ?4 GROUP BY 1"""
    with reading(path) as db:
        counts = dict(db.execute(query, (begin_ns, HOUR_NS, rule, until_ns)))
    return [Hour(begin_ns + hour * HOUR_NS, counts.get(hour, 0)) for hour in range(24)]


def same_tenant(path: Path, alert: Alert, limit: int) -> list[Alert]:
    """The newest alerts of its tenant in other requests, of the store's newest `NUM_SEARCHED`."""
    if alert.tenant is None:
        return []
    query = """SELECT body FROM alerts WHERE row > (SELECT max(row) FROM alerts) - ?
        AND req_id != ? AND instr(body, CAST(? AS BLOB)) ORDER BY row DESC"""
    found: list[Alert] = []
    with reading(path) as db:
        rows = db.execute(query, (NUM_SEARCHED, alert.req_id, alert.tenant))
        while len(found) < limit and (some := rows.fetchmany(_AT_ONCE)):
            alerts = (decode_alert(body) for (body,) in some)
            found += [each for each in alerts if each.tenant == alert.tenant]
    return found[:limit]
