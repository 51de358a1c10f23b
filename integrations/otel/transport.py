"""One OTLP/HTTP request, and what its outcome means for the sender."""

from __future__ import annotations

import gzip
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError

CONTENT_TYPE = "application/x-protobuf"

# These speak of the sender's settings or of the server's state, not of the alerts: a wrong token or
# path must hold alerts back until somebody mends it, not refuse every one of them for good.
_NOT_ABOUT_THE_ALERTS = {401, 403, 404, 405, 407, 408, 429}


def check_endpoint(endpoint: str) -> str:
    """The endpoint without its last slash."""
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"OTLP endpoint {endpoint!r} is not an http(s) URL")
    if url.username is not None:  # it would end up in logs and in the store
        raise ConfigError("an OTLP endpoint must not hold a password", "put it in the headers")
    return endpoint.rstrip("/")


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
    """The reply's protobuf; empty where the server answers in JSON or with nothing.

    Raises:
        DeliveryError: it did not take the request.
    """
    request = urllib.request.Request(
        url,
        data=gzip.compress(body, compresslevel=1),
        headers={"Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip", **headers},
    )
    try:
        with _OPENER.open(request, timeout=timeout_s) as reply:
            return _accepted(url, reply.headers.get_content_type(), reply.read())
    except urllib.error.HTTPError as error:
        with error:
            refused = 400 <= error.code < 500 and error.code not in _NOT_ABOUT_THE_ALERTS
            raise DeliveryError(f"{url}: {error}", retriable=not refused) from error
    except (OSError, http.client.HTTPException) as error:
        raise DeliveryError(f"{url}: {error}", retriable=True) from error


def _accepted(url: str, content_type: str, reply: bytes) -> bytes:
    if content_type == CONTENT_TYPE:
        return reply
    if reply and content_type != "application/json":
        # A login page or a wrong port may answer 200 too.
        raise DeliveryError(
            f"{url}: answers {content_type}, so it is no OTLP server", retriable=True
        )
    return b""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without the alerts, whose 200 would mean nothing."""

    def redirect_request(self, *_: object) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)
