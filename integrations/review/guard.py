"""Who may use the page, and what it may load.

Alerts hold what a model wrote for somebody: nobody else may read it, and no other page may act in
a reviewer's name. Text of models and clients is hostile, so a strict policy stands behind the
escaping of the templates.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

COOKIE = "saeguard_token"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_POLICY = "; ".join(
    (
        "default-src 'none'", "style-src 'self'", "script-src 'self'", "img-src 'self'",
        "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
    )
)  # fmt: skip
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
}
Next = Callable[[Request], Awaitable[Response]]


class Guard:
    """Middleware. With a token, whoever has none sees nothing; it is handed over once, in the URL,
    and kept in a cookie.
    """

    def __init__(self, token: str | None, hosts: frozenset[str]) -> None:
        """
        Args:
            token: None: every process of this machine may look.
            hosts: names that the page is known by: another name in a request is a page elsewhere
                that has rebound its name to this address. Empty: all, for a token is asked for.
        """
        self._token = token
        self._hosts = hosts
        self.csrf = secrets.token_urlsafe(32)
        """What forms have to send back."""

    async def __call__(self, request: Request, call_next: Next) -> Response:
        response = self._refusal(request) or await call_next(request)
        response.headers.update(_HEADERS)
        return response

    def check_form(self, csrf: str) -> bool:
        """Whether a form came from a page of ours."""
        return hmac.compare_digest(csrf.encode(), self.csrf.encode())

    def _refusal(self, request: Request) -> Response | None:
        if self._hosts and (request.url.hostname or "") not in self._hosts:
            return PlainTextResponse("unknown host", 421)
        if self._token is None:
            return None
        if self._is_token(request.cookies.get(COOKIE, "")):
            return None
        if self._is_token(request.query_params.get("token", "")):
            url = request.url.remove_query_params("token")
            local = urlsplit(str(url))
            query = f"?{local.query}" if local.query else ""
            response = RedirectResponse(f"/{local.path.lstrip(chr(47))}{query}")
            response.set_cookie(
                COOKIE, self._token, httponly=True, samesite="strict",
                secure=request.url.scheme == "https",
            )  # fmt: skip
            return response
        return PlainTextResponse("open the URL with the token that saeguard review printed", 401)

    def _is_token(self, given: str) -> bool:
        assert self._token is not None
        return hmac.compare_digest(given.encode(), self._token.encode())
