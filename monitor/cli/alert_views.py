"""How alerts look on a terminal. All names and texts in them may come from clients: `safe` them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import isnan

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from saeguard.monitor.alerts import (
    Alert,
    CorrelationEvidence,
    Coverage,
    RequestRecord,
    SignalReading,
)
from saeguard.monitor.logging import printable
from saeguard.monitor.strip import visible

SEVERITY_STYLES = {
    "info": "dim",
    "low": "cyan",
    "medium": "yellow",
    "high": "bold #e69f00",
    "critical": "bold white on #d55e00",
}


def safe(text: str, style: str = "") -> Text:
    """Neither markup nor control characters of `text` take effect."""
    return Text(printable(text), style=style)


def alert_table(alerts: Sequence[Alert]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for column in ("time", "severity", "token", "seen", "id"):
        table.add_column(column, no_wrap=True)
    for column in ("rule", "request", "model"):  # these give way on a narrow terminal
        table.add_column(column, overflow="fold")
    for alert in alerts:
        table.add_row(
            _time(alert.time_ns, "%m-%d %H:%M:%S"),
            _severity(alert),
            "" if alert.kind == "health" else str(alert.position),
            Text() if alert.kind == "health" else _seen(alert.coverage),
            alert.id[-8:],
            safe(alert.rule_name),
            safe(alert.request_id),
            safe(alert.model),
        )
    return table


def header(alert: Alert, record: RequestRecord | None) -> Group:
    rows = {
        "message": _message(alert),
        "fired": _where(alert),
        "action": _action(alert, record),
        "request": safe(alert.req_id and f"{alert.request_id}  (engine: {alert.req_id})"),
        "model": safe(alert.model),
        "lora": safe(alert.lora or ""),
        "tenant": safe(alert.tenant or ""),
        "client": safe(alert.client or ""),
        "policy": safe(alert.policy or ""),
        "opted out": _opt_outs(record),
        "rule set": safe(
            f"{alert.ruleset_name} {alert.ruleset_version}  {alert.ruleset_sha256[:12]}"
        ),
        "watchlist": safe(alert.watchlist[:12]),
        "alert": safe(alert.id),
    }
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value:
            grid.add_row(Text(name, style="dim"), value)
    title = Text(" ").join([_severity(alert), safe(alert.rule_title, "bold")])
    return Group(title, Padding(grid, (0, 0, 1, 2), expand=False))


def signals(alert: Alert) -> Group:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("signal", "feature", "aggregate", "value", "wanted", "holds", "at token"):
        numeric = column in ("value", "at token")
        table.add_column(column, justify="right" if numeric else "left")
    for signal in alert.signals:
        table.add_row(*_signal_row(signal, alert.feature_labels.get(signal.feature)))
    is_trigger = alert.kind == "correlation"
    return _section("The match that completed it" if is_trigger else "Why it fired", table)


def correlation(evidence: CorrelationEvidence) -> Group:
    """The matches across requests that made a rule fire."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("time", "rule", "request", "engine's id"):
        table.add_column(column)
    for match in evidence.matches:
        table.add_row(
            _time(match.time_ns), safe(match.rule), safe(match.request_id), safe(match.req_id)
        )
    group = ", ".join(f"{key} {value}" for key, value in evidence.group.items())
    what = f"{evidence.type}: {evidence.count} within {evidence.timespan_s:g} s"
    return _section(printable(f"{what}, of {group}" if group else what), table)


def coverage(alert: Alert, record: RequestRecord | None) -> Group:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("", "scheduled", "observed", "cached", "unseen", "why"):
        table.add_column(column, justify="left" if column in ("", "why") else "right")
    table.add_row("when it fired", *_coverage_row(alert.coverage))
    if record is not None:
        table.add_row(safe(f"at the end ({record.reason})"), *_coverage_row(record.coverage))
    return _section("What was seen of the request", table)


def outcomes(record: RequestRecord) -> Group:
    """What became of every match in a request, alerts or not."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("rule", "matches", "alerts", "limited", "suppressed", "opted out"):
        table.add_column(column, justify="left" if column == "rule" else "right")
    for rule, counts in record.counts.items():
        numbers = (
            counts.matches,
            counts.emitted,
            counts.limited,
            sum(counts.suppressed.values()),
            counts.opted_out,
        )
        table.add_row(safe(rule), *map(str, numbers))
    return _section("What matched in the request", table)


def _section(title: str, body: Table) -> Group:
    return Group(Text(title, style="bold"), Padding(body, (0, 0, 1, 2), expand=False))


def _severity(alert: Alert) -> Text:
    return safe(alert.severity, SEVERITY_STYLES.get(alert.severity, ""))


def _time(time_ns: int, form: str = "%Y-%m-%d %H:%M:%S %Z") -> str:
    return datetime.fromtimestamp(time_ns / 1e9).astimezone().strftime(form)


def _message(alert: Alert) -> Text:
    """Lines stay lines only where no client has a hand in them."""
    lines = alert.message.splitlines() if alert.kind == "health" else [alert.message]
    return Text("\n").join(safe(line) for line in lines)


def _action(alert: Alert, record: RequestRecord | None) -> Text:
    """What was asked for and, of a request that has ended, what came of it."""
    if alert.action == "alert":
        return Text()
    outcomes = [alert.action_outcome, record.stop_outcome if record else ""]
    return safe(f"{alert.action}: {', then '.join(filter(None, outcomes))}")


def _opt_outs(record: RequestRecord | None) -> Text:
    """Rules that the client wanted to be left alone by, and what came of it."""
    wanted = record.opt_outs if record else {}
    return safe(", ".join(f"{name} ({outcome})" for name, outcome in wanted.items()))


def _where(alert: Alert) -> Text:
    if alert.kind == "health":
        return Text(_time(alert.time_ns))
    token = "" if alert.token is None else f" {visible(alert.token)}"
    span = f"evidence from token {alert.first_position}"
    return Text(f"{_time(alert.time_ns)}, {alert.phase} token {alert.position}{token}, {span}")


def _seen(coverage: Coverage) -> Text:
    text = f"{coverage.observed + coverage.cached}/{coverage.scheduled}"
    return Text(text, style="" if coverage.complete else "yellow")


def _signal_row(signal: SignalReading, label: str | None) -> list[Text]:
    feature = f"{signal.feature} ({label})" if label else signal.feature
    return [
        safe(signal.name),
        safe(feature),
        safe(signal.agg),
        Text("not observed" if isnan(signal.value) else f"{signal.value:.2f}"),
        safe(signal.wanted),
        Text("yes", style="bold") if signal.holds else Text("no", style="dim"),
        Text(str(signal.position)),
    ]


def _coverage_row(coverage: Coverage) -> list[Text]:
    why = ", ".join(f"{reason} {count}" for reason, count in coverage.unseen.items())
    counts = (coverage.scheduled, coverage.observed, coverage.cached, coverage.num_unseen)
    return [*(Text(str(count)) for count in counts), safe(why, "yellow")]
