"""`saeguard review` as a process."""

from __future__ import annotations

import re
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from review_process import SAEGUARD, review
from running_monitor import write_config

from saeguard.integrations.review.command import sources_of
from saeguard.monitor.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.sqlite"
    Store(path).close()
    return path


def test_it_prints_where_the_page_is(path: Path):
    with review(path) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        with urllib.request.urlopen(url, timeout=20) as reply:
            assert b"saeguard" in reply.read()


def test_off_this_machine_it_makes_a_token(path: Path):
    with review(path, "--host", "0.0.0.0") as url:
        assert re.fullmatch(r"http://0\.0\.0\.0:\d+/\?token=[\w-]{32}", url)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url.split("?")[0], timeout=20)


def test_what_is_no_store_is_an_error(tmp_path: Path):
    command = [*SAEGUARD, "review", "--store", str(tmp_path / "none.sqlite")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "there is no alert store" in run.stderr


def test_the_configuration_says_where_everything_is(tmp_path: Path):
    sources = sources_of(None, write_config(tmp_path))
    assert sources.store == tmp_path / "alerts.sqlite"
    assert sources.rules.written == ["rules.yaml"]
    assert sources.watchlist.columns == ("calm", "deceit")
    assert sources_of(tmp_path / "other.sqlite", None).store == tmp_path / "other.sqlite"


def test_a_watchlist_that_cannot_be_read_keeps_nobody_from_reviewing(tmp_path: Path):
    config = write_config(tmp_path)
    (tmp_path / "watch.safetensors").write_text("damaged")
    sources = sources_of(None, config)
    assert sources.watchlist is None
    assert "cannot be read as a watchlist" in sources.no_watchlist
