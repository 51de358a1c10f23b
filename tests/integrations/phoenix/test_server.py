"""What is said where no Phoenix answers, or one that wants a key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from console_script import console_script
from prometheus_server import free_port

from saeguard.monitor.store import Store

Pull = Callable[..., tuple[int, str, str]]


class WantsAKey(BaseHTTPRequestHandler):
    """As Phoenix does with `PHOENIX_ENABLE_AUTH`: no reason, only 401. With the key it is no
    Phoenix.
    """

    def do_GET(self) -> None:
        is_known = self.headers["Authorization"] == "Bearer k3y"
        body = b"<html>" if is_known else b""
        self.send_response(200 if is_known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), WantsAKey) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def pull(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Pull:
    """`saeguard phoenix pull --endpoint ...`, with an empty store."""
    Store(tmp_path / "saeguard-alerts.sqlite").close()
    monkeypatch.delenv("PHOENIX_API_KEY", raising=False)
    run = console_script(monkeypatch, capsys, tmp_path)
    return lambda *arguments: run("phoenix", "pull", "--endpoint", *arguments)


def test_that_nobody_answers_is_said_with_the_address(pull: Pull):
    endpoint = f"http://127.0.0.1:{free_port()}"
    code, _, err = pull(endpoint)
    assert code == 2
    assert f"no Phoenix answers at {endpoint}: [Errno 111] Connection refused" in err


def test_what_is_no_url_is_refused(pull: Pull):
    code, _, err = pull("localhost:6006")
    assert code == 2
    assert "Phoenix endpoint 'localhost:6006' is not an http(s) URL" in err


def test_a_server_that_wants_a_key_is_told_from_one_that_is_no_phoenix(
    endpoint: str, pull: Pull, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    code, _, err = pull(endpoint)
    assert code == 2
    assert "401" in err
    assert "--api-key-file" in err
    key = tmp_path / "key"
    key.write_text("k3y\n")
    assert "answers otherwise than Phoenix" in pull(endpoint, "--api-key-file", str(key))[2]
    monkeypatch.setenv("PHOENIX_API_KEY", "k3y")
    assert "answers otherwise than Phoenix" in pull(endpoint)[2]


def test_without_a_store_there_is_nothing_to_pull_for(pull: Pull, tmp_path: Path):
    code, _, err = pull("http://127.0.0.1:1", "--store", str(tmp_path / "none.sqlite"))
    assert code == 2
    assert "there is no alert store" in err
    assert not (tmp_path / "none.sqlite").exists()
