"""A webhook for programs of one's own: every batch is one signed JSON document.

```
POST <url>
X-Saeguard-Timestamp: 1789000000
X-Saeguard-Signature: sha256=<hex>

{"version": 1, "alerts": [{"id": ..., "rule_name": ..., ...}]}
```

The signature is HMAC-SHA256, with the shared secret as its key, of the timestamp, a dot, and the
body as it was sent. A receiver computes it again, compares in constant time, and refuses timestamps
that are minutes old: then nobody else can send alerts, nor send one again. An alert may still come
twice from us, with the same id.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from saeguard.integrations.http import check_url, post
from saeguard.monitor.alerts import Alert
from saeguard.monitor.secrets import read_secret

VERSION = 1
"""Of the document; fields may be added to it without another one."""


class WebhookDestination:
    """Posts alerts to one URL.

    Args:
        url: where to. It may hold no password.
        secret_env: name of the environment variable with the secret to sign with.
        secret_file: or a file with it; white space around it does not count.
        headers: more of them, such as `Authorization`.

    Raises:
        ConfigError: the URL is none, or the secret cannot be had.
    """

    def __init__(
        self,
        url: str,
        secret_env: str | None = None,
        secret_file: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> None:
        self._url = check_url(url, "webhook's URL")
        self._secret = read_secret(secret_env, secret_file)
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        return f"webhook:{self._url}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        body = json.dumps({"version": VERSION, "alerts": [plain(alert) for alert in alerts]})
        signed = self._signed(body.encode(), int(time.time()))
        post(self._url, body.encode(), self._headers | signed, self._timeout_s)

    def close(self) -> None:
        """Nothing is held open."""

    def _signed(self, body: bytes, timestamp_s: int) -> dict[str, str]:
        if self._secret is None:
            return {}
        return {
            "X-Saeguard-Timestamp": str(timestamp_s),
            "X-Saeguard-Signature": f"sha256={signature(self._secret, timestamp_s, body)}",
        }


def signature(secret: bytes, timestamp_s: int, body: bytes) -> str:
    """In hex; the same for whoever sends and whoever checks."""
    return hmac.new(secret, b"%d." % timestamp_s + body, hashlib.sha256).hexdigest()


def plain(alert: Alert) -> dict[str, Any]:
    """The alert as values for JSON, which has no NaN: what was not observed is null."""
    values: dict[str, Any] = msgspec.to_builtins(alert)
    for signal in values["signals"]:
        for key, value in signal.items():
            if isinstance(value, float) and not math.isfinite(value):
                signal[key] = None
    return values
