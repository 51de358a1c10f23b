"""HTTP requests to a server, and what the outcome of a POST means for whoever sends alerts."""

from __future__ import annotations

import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.secrets import FromEnv, Headers, read_secret

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

# These speak of the sender's settings or of the server's state, not of the alerts: a wrong token or
# path must hold alerts back until somebody mends it, not refuse every one of them for good.
_NOT_ABOUT_THE_ALERTS = {401, 403, 404, 405, 407, 408, 429}


@dataclass(frozen=True, slots=True)
class Reply:
    """Of a server that took the request."""

    content_type: str
    body: bytes


class HttpClient:
    """Speaks to one server, never to where it redirects.

    Args:
        headers: of every request.
        ca_file: with the certificates to trust, in place of the system's.

    Raises:
        ConfigError: the headers cannot be sent, or the certificates cannot be read.
    """

    def __init__(self, headers: Headers | None, timeout_s: float, ca_file: Path | None) -> None:
        self._headers = read_headers(headers)
        self._timeout_s = timeout_s
        tls = urllib.request.HTTPSHandler(context=_trusting(ca_file))
        self._opener = urllib.request.build_opener(_NoRedirect, tls)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """The server's answer. The configured headers win over these.

        Raises:
            DeliveryError: it did not take it; not retriable where the fault is in what was sent.
        """
        try:
            return self.request("POST", url, body, headers)
        except urllib.error.HTTPError as error:
            with error:
                refused = 400 <= error.code < 500 and error.code not in _NOT_ABOUT_THE_ALERTS
                raise DeliveryError(f"{url}: {error}", retriable=not refused) from error
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"{url}: {_in_words(error)}", retriable=True) from error

    def request(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Reply:
        """
        Raises:
            HTTPError: the server answers, but not with success.
            OSError, HTTPException: it does not answer.
        """
        request = urllib.request.Request(
            url, data=body, headers={**headers, **self._headers}, method=method
        )
        with self._opener.open(request, timeout=self._timeout_s) as reply:
            return Reply(reply.headers.get_content_type(), reply.read())


def check_url(url: str, what: str) -> str:
    """The URL without its last slash.

    Raises:
        ConfigError: it is none, or holds a password.
    """
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url:
        raise ConfigError(f"{what} {url!r} is not an http(s) URL")
    if parts.username is not None:  # it would end up in logs and in the store
        raise ConfigError(f"the {what} must not hold a password", "put it in the headers")
    return url.rstrip("/")


def read_headers(headers: Headers | None) -> dict[str, str]:
    """Their names and values, with what the environment has of them.

    Raises:
        ConfigError: one cannot be had or sent. Its value may be a secret, and is not told.
    """
    read = {name: _text(value) for name, value in (headers or {}).items()}
    for name, value in read.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not re.fullmatch(r"[ -~]*", value):
            raise ConfigError(
                f"the header {name!r} cannot be sent",
                "names are of letters, digits, - and _, values of printable ASCII",
            )
    return read


def _in_words(error: Exception) -> str:
    if type(error) is http.client.BadStatusLine:  # which holds what came in its place
        return "the answer is not HTTP; is the port one for gRPC?"
    return str(error)


def _text(value: str | FromEnv) -> str:
    if isinstance(value, str):
        return value
    secret = read_secret(value.env, None)
    assert secret is not None  # the variable has a name
    return secret.decode(errors="replace")


def read_certificates(ca_file: Path) -> bytes:
    """
    Raises:
        ConfigError: there are none.
    """
    try:
        pem = ca_file.read_bytes()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (OSError, ValueError) as error:  # of the file; of ssl, where it is empty or no text
        raise ConfigError(f"certificates cannot be read from {ca_file}: {error}") from error
    return pem


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    pem = read_certificates(ca_file).decode() if ca_file else None
    return ssl.create_default_context(cadata=pem)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST becomes a GET without the alerts, whose 200 would mean nothing; and a key
    in the headers is for this server alone.
    """

    def redirect_request(self, *_: object) -> None:
        return None
