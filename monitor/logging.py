"""saeguard's own log, on stderr. It shares nothing with the host process's logging and structlog.

`SAEGUARD_LOG` is `console` or `json`; by default console on a terminal, and json elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from saeguard.monitor.alerts import Alert

_json = structlog.processors.JSONRenderer()  # escapes all but ASCII
_console = structlog.dev.ConsoleRenderer()


def printable(text: str) -> str:
    """The text with control, format and lone surrogate characters written as escapes.

    Token text and names chosen by clients are hostile: they must not move a terminal's cursor.
    """
    return "".join(
        char.encode("unicode_escape").decode() if _is_control(char) else char for char in text
    )


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _render(wrapped: Any, method: str, event: MutableMapping[str, Any]) -> str | bytes:
    default = "console" if sys.stderr.isatty() else "json"
    if os.environ.get("SAEGUARD_LOG", default) == "json":
        return _json(wrapped, method, event)
    safe = {key: printable(v) if isinstance(v, str) else v for key, v in event.items()}
    return _console(wrapped, method, safe)


class _Stderr:
    """Writes to today's `sys.stderr`, which may be another one than at import."""

    def msg(self, line: str) -> None:
        # A closed pipe, a full disk: whoever reads the log is gone, the monitor goes on.
        with contextlib.suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)

    debug = info = warning = error = critical = msg


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger that shares nothing with the process around it."""
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        _Stderr(),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        context_class=dict,
        cache_logger_on_first_use=True,
    ).bind(logger=name)
    return log


def json_line(alert: Alert) -> str:
    """All that is known of the alert as one line of JSON, in ASCII without control characters."""
    moment = datetime.fromtimestamp(alert.time_ns / 1e9, UTC)
    values = {
        "event": "saeguard.alert",
        "timestamp": moment.isoformat(timespec="microseconds"),
        **{name: getattr(alert, name) for name in alert.__struct_fields__},
    }
    return _NOT_PLAIN.sub(_escaped, msgspec.json.encode(values).decode())


_NOT_PLAIN = re.compile("[^ -~]")


def _escaped(char: re.Match[str]) -> str:
    """As JSON has it: in units of UTF-16."""
    units = char[0].encode("utf-16-be")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(*[iter(units)] * 2, strict=True))


_alerts = logger("saeguard.alerts")


def log_alert(alert: Alert) -> None:
    """The last resort of visibility, when no destination can be reached."""
    _alerts.warning(
        "alert",
        alert_id=alert.id,
        rule=alert.rule_name,
        severity=alert.severity,
        message=alert.message,
        request_id=alert.request_id,
        model=alert.model,
        phase=alert.phase,
        position=alert.position,
        token=alert.token,
        observed=alert.coverage.observed,
        cached=alert.coverage.cached,
        scheduled=alert.coverage.scheduled,
    )
