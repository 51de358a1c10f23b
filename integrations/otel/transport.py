"""One OTLP/HTTP request."""

from __future__ import annotations

import gzip
from collections.abc import Mapping

from saeguard.integrations import http
from saeguard.monitor.delivery import DeliveryError

CONTENT_TYPE = "application/x-protobuf"


def check_endpoint(endpoint: str) -> str:
    """The endpoint without its last slash.

    Raises:
        ConfigError: it is no URL, or holds a password.
    """
    return http.check_url(endpoint, "OTLP endpoint")


def post(url: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> bytes:
    """The reply's protobuf; empty where the server answers in JSON or with nothing.

    Raises:
        DeliveryError: it did not take the request.
    """
    own = {"Content-Type": CONTENT_TYPE, "Content-Encoding": "gzip"}
    reply = http.post(url, gzip.compress(body, compresslevel=1), own | dict(headers), timeout_s)
    return _accepted(url, reply.content_type, reply.body)


def _accepted(url: str, content_type: str, reply: bytes) -> bytes:
    if content_type == CONTENT_TYPE:
        return reply
    if reply and content_type != "application/json":
        # A login page or a wrong port may answer 200 too.
        raise DeliveryError(
            f"{url}: answers {content_type}, so it is no OTLP server", retriable=True
        )
    return b""
