"""One HTTP POST to a destination, and what its outcome means for whoever sends."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError

# These speak of the sender's settings or of the server's state, not of the alerts: a wrong token or
# path must hold alerts back until somebody mends it, not refuse every one of them for good.
_NOT_ABOUT_THE_ALERTS = {401, 403, 404, 405, 407, 408, 429}


@dataclass(frozen=True, slots=True)
class Reply:
    """Of a server that took the request."""

    content_type: str
    body: bytes


def check_url(url: str, what: str) -> str:
    """The URL without its last slash.

    Raises:
        ConfigError: it is none, or holds a password.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{what} {url!r} is not an http(s) URL")
    if parts.username is not None:  # it would end up in logs and in the store
        raise ConfigError(f"the {what} must not hold a password", "put it in the headers")
    return url.rstrip("/")


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
    """The server's answer to the request.

    Raises:
        DeliveryError: it did not take it; not retriable where the fault is in what was sent.
    """
    request = urllib.request.Request(url, data=body, headers=dict(headers))
    try:
        with _OPENER.open(request, timeout=timeout_s) as reply:
            return Reply(reply.headers.get_content_type(), reply.read())
    except urllib.error.HTTPError as error:
        with error:
            refused = 400 <= error.code < 500 and error.code not in _NOT_ABOUT_THE_ALERTS
            raise DeliveryError(f"{url}: {error}", retriable=not refused) from error
    except (OSError, http.client.HTTPException) as error:
        raise DeliveryError(f"{url}: {error}", retriable=True) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without the alerts, whose 200 would mean nothing."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
