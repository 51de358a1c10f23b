"""A real Arize Phoenix, in an environment of its own: its packages and vLLM's do not agree."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_server import free_port

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("SAEGUARD_PHOENIX") or ROOT / ".venv-phoenix" / "bin" / "phoenix")
needs_phoenix = pytest.mark.skipif(
    not PROGRAM.exists(), reason="needs arize-phoenix: make setup-phoenix"
)
_START_S = 300.0
"""Its imports alone take 10 s of a core, and the tests share theirs."""


@dataclass(frozen=True)
class Phoenix:
    url: str

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        """The data of the reply."""
        url = f"{self.url}/v1/{path}"
        reply = httpx.request(method, url, timeout=60, trust_env=False, **arguments)
        assert reply.is_success, reply.text
        return reply.json()["data"]

    def project_id(self, name: str) -> str | None:
        """None while there is no such project."""
        found = {each["name"]: each["id"] for each in self.call("GET", "projects")}
        return found.get(name)

    def spans(self, project: str) -> list[dict[str, Any]]:
        """At most a thousand; none while there is no such project."""
        if self.project_id(project) is None:
            return []
        return self.call("GET", f"projects/{project}/spans", params={"limit": 1000})

    def annotate(
        self, span_id: str, label: str | None, explanation: str | None = None, **fields: Any
    ) -> None:
        """Says `label` of the span; it is stored on return."""
        said = {
            "span_id": span_id,
            "name": "verdict",
            "annotator_kind": "HUMAN",
            "result": {"label": label, "explanation": explanation},
            **fields,
        }
        self.call("POST", "span_annotations", params={"sync": "true"}, json={"data": [said]})


@contextmanager
def phoenix(work: Path) -> Iterator[Phoenix]:
    """It keeps what it is sent in `work` and tells nobody of it."""
    port = free_port()
    settings = {
        "PHOENIX_WORKING_DIR": str(work),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PHOENIX_ENABLE_MCP_SERVER": "false",
        "PHOENIX_LOG_MIGRATIONS": "false",
    }
    with (work / "phoenix.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, "serve"], stdout=log, stderr=log, cwd=work, env={**os.environ, **settings}
        )
    server = Phoenix(f"http://127.0.0.1:{port}")
    try:
        _wait_until_it_answers(server, process, work / "phoenix.log")
        yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_it_answers(server: Phoenix, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.get(f"{server.url}/healthz", timeout=30, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"Phoenix did not start:\n{log.read_text()[-3000:]}")
