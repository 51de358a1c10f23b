"""Refuses requests while there is no monitor and the configuration says `fail: closed`.

A middleware of vLLM's server, which `saeguard serve` adds: `--middleware` with the path below.
EngineCore refuses them without it, too, but there vLLM leaves no room for the reason.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from saeguard.integrations.vllm.settings import load_settings, run_directory
from saeguard.monitor.config import Config
from saeguard.monitor.errors import SaeguardError

MIDDLEWARE = "saeguard.integrations.vllm.closed_door.ClosedDoor"
_RETRY_AFTER_S = 2


def closed_door(vllm_config: Any, config: Config) -> Path:
    """The file that says why, while the door is closed."""
    return run_directory(vllm_config, config) / "refusing"


class ClosedDoor:
    """An ASGI application around the server's own."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._door: Path | None = None
        self._is_looked_up = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_work = scope["type"] == "http" and scope["method"] == "POST"
        reason = None
        if is_work and scope["path"].startswith("/v1/"):
            reason = self._reason(scope["app"].state)
        if reason is None:
            await self._app(scope, receive, send)
        else:
            await _refuse(send, f"saeguard: {reason}")

    def _reason(self, state: Any) -> str | None:
        """None: the door is open, or this server is not watched at all."""
        if not self._is_looked_up:
            self._is_looked_up = True
            with contextlib.suppress(SaeguardError):  # EngineCore has said what is wrong
                if (config := load_settings(state.vllm_config)) is not None:
                    self._door = closed_door(state.vllm_config, config)
        try:
            return self._door.read_text() if self._door else None
        except OSError:
            return None


async def _refuse(send: Any, message: str) -> None:
    """As vLLM's server words its errors."""
    error = {"message": message, "type": "ServiceUnavailableError", "param": None, "code": 503}
    headers = [
        (b"content-type", b"application/json"),
        (b"retry-after", str(_RETRY_AFTER_S).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
