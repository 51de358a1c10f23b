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
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from saeguard.integrations.http import HttpClient, Seconds, check_url
from saeguard.monitor.alerts import Alert
from saeguard.monitor.secrets import Headers, read_secret

VERSION = 1
"""Of the document; fields may be added to it without another one."""


class WebhookDestination:
    """Posts alerts to one URL.

    Args:
        url: where to. It may hold no password.
        secret_env: name of the environment variable with the secret to sign with.
        secret_file: or a file with it; white space around it does not count.
        headers: more of them, such as `Authorization`.
        ca_file: with the certificates to trust, in place of the system's.

    Raises:
        ConfigError: the URL is none, or the secret cannot be had.
    """

    def __init__(
        self,
        url: str,
        secret_env: str | None = None,
        secret_file: Path | None = None,
        headers: Headers | None = None,
        timeout_s: Seconds = 5.0,
        ca_file: Path | None = None,
    ) -> None:
        self._url = check_url(url, "webhook's URL")
        self._secret = read_secret(secret_env, secret_file)
        self._client = HttpClient(headers, timeout_s, ca_file)

    @property
    def name(self) -> str:
        return f"webhook:{self._url}"

    def deliver(self, alerts: Sequence[Alert]) -> None:
        body = msgspec.json.encode({"version": VERSION, "alerts": alerts})  # null where NaN is
        headers = {"Content-Type": "application/json"}
        headers |= self._signed(body, int(time.time()))
        self._client.post(self._url, body, headers)

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
