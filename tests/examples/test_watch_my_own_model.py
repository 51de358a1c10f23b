"""The walk-through for newcomers: its commands run, and print what it shows."""

from __future__ import annotations

import re
import socket
import time
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

import pytest
from shell_page import Shell, agrees, steps_of

pytestmark = [pytest.mark.server, pytest.mark.offline]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "watch-my-own-model.md"
PATIENCE_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_every_command_runs_and_prints_what_the_page_shows(tmp_path: Path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    folder = tmp_path / "my-model"
    folder.mkdir()
    ports = {"8000": str(free_port()), "8765": str(free_port())}
    wrong = []
    with Shell(
        folder, VLLM_NO_USAGE_STATS="1", TORCHDYNAMO_DISABLE="1",
        VLLM_CACHE_ROOT=str(tmp_path / "cache"),
    ) as shell:  # fmt: skip
        for step in steps_of(PAGE):
            if step.file:
                (folder / step.file).write_text(step.content)
                continue
            command = re.sub(r"\b(8000|8765)\b", lambda m: ports[m[0]], step.command)
            if command == "saeguard alerts list":
                wait_for_the_record(shell)
            code, printed = shell.run(command)
            refused = "1/1000req" in command  # as the page says
            assert code == refused, f"$ {command}\nexit code {code}:\n{printed}{shell.errors}"
            if step.expected and not agrees(step.expected, printed):
                wrong.append(f"$ {command}\n{printed}is not\n{step.expected}")
            if "saeguard review" in command:
                say_that_it_is_true(f"http://127.0.0.1:{ports['8765']}")
    assert not wrong, "\n\n".join(wrong)


def wait_for_the_record(shell: Shell) -> None:
    """Of both requests: an alert is in the store before, if there is one."""
    deadline_s = time.monotonic() + PATIENCE_S
    while "2 requests" not in shell.run("saeguard alerts export -o waiting.safetensors")[1]:
        assert time.monotonic() < deadline_s, shell.errors
        time.sleep(1)


def say_that_it_is_true(url: str) -> None:
    """As `t` does on the page of the only alert."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            listed = browser.open(url).read().decode()
            break
        except urllib.error.URLError:
            assert time.monotonic() < deadline_s
            time.sleep(0.5)
    (alert,) = set(re.findall(r'href="(/alerts/[0-9a-f-]+)', listed))
    page = browser.open(url + alert).read().decode()
    csrf = re.search(r'name="csrf" value="([^"]+)"', page)
    assert csrf
    form = urllib.parse.urlencode({"csrf": csrf[1], "verdict": "true_positive"}).encode()
    browser.open(f"{url}{alert}/verdict", form)
