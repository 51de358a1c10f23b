"""Alertmanager's own API (v2): grouping, silencing and routing by the tool that is there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from saeguard.integrations.http import HttpClient, Seconds, check_url
from saeguard.monitor.alerts import Alert
from saeguard.monitor.secrets import Headers

MAX_CHARS = 1024
"""Of one label or annotation."""


class AlertmanagerDestination:
    """Posts alerts to `<url>/api/v2/alerts`.

    Alertmanager takes alerts with the same labels for one and the same, so labels say what fired
    and for whom, and the request is in the annotations. It resolves them by its `resolve_timeout`.

    Args:
        url: Alertmanager's base, such as `http://localhost:9093`.
        labels: more labels for each alert, such as the cluster.
        ca_file: with the certificates to trust, in place of the system's.

    Raises:
        ConfigError: the URL is none.
    """

    def __init__(
        self,
        url: str,
        labels: Mapping[str, str] | None = None,
        headers: Headers | None = None,
        timeout_s: Seconds = 5.0,
        ca_file: Path | None = None,
    ) -> None:
        self._url = check_url(url, "Alertmanager's URL")
        self._labels = dict(labels or {})
        self._client = HttpClient(headers, timeout_s, ca_file)

    @property
    def name(self) -> str:
        return f"alertmanager:{self._url}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        body = json.dumps([self._entry(alert) for alert in alerts]).encode()
        json_body = {"Content-Type": "application/json"}
        self._client.post(f"{self._url}/api/v2/alerts", body, json_body)

    def close(self) -> None:
        """Nothing is held open."""

    def _entry(self, alert: Alert) -> dict[str, object]:
        labels = {
            "alertname": alert.rule_name,
            "severity": alert.severity,
            "kind": alert.kind,
            "model": alert.model,
            "lora": alert.lora,
            "tenant": alert.tenant,
            **self._labels,
        }
        annotations = {
            "summary": alert.rule_title,
            "description": alert.message,
            "alert_id": alert.id,
            "request_id": alert.request_id,
            "ruleset": f"{alert.ruleset_name} {alert.ruleset_version}",
            "command": f"saeguard alerts show {alert.id}",
        }
        started = datetime.fromtimestamp(alert.time_ns / 1e9, UTC)
        return {
            "labels": _texts(labels),
            "annotations": _texts(annotations),
            "startsAt": started.isoformat(timespec="milliseconds"),
        }


def _texts(values: Mapping[str, str | None]) -> dict[str, str]:
    """Those that say anything, cut: an empty label is to Alertmanager as none."""
    return {key: value[:MAX_CHARS] for key, value in values.items() if value}
