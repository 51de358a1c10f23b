"""The destinations of a configuration file."""

from __future__ import annotations

import inspect
import json
import re
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from json_receiver import JsonReceiver
from records import make_alert

from saeguard.monitor.config import load_config
from saeguard.monitor.destinations import load_destinations
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.senders import Senders
from saeguard.monitor.spool import status
from saeguard.monitor.store import Store

PAGE = Path(__file__).resolve().parents[2] / "docs" / "telemetry.md"
TOP = "version: 1\nrules: [a]\nwatchlist: w\ndestinations:\n"


def load(directory: Path, text: str):
    file = directory / "saeguard.yaml"
    file.write_text(TOP + text)
    return load_destinations(load_config(file))


def test_every_fault_is_told_with_its_line(tmp_path: Path):
    text = """\
  - {kind: otlp, endpoint: "http://h:4318"}
  - {kind: pigeon}
  - kind: webhook
    url: http://h
    timeout_s: soon
"""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    first, second = str(caught.value).splitlines()
    assert re.search(r"saeguard.yaml:6:5: .*no destination 'pigeon'", first)
    assert re.search(r"saeguard.yaml:7:5: .*timeout_s: .*number", second)


def test_paths_are_relative_to_the_file(tmp_path: Path):
    (tmp_path / "key").write_text("hush")
    loaded = load(tmp_path, "  - {kind: webhook, url: http://h, secret_file: key}\n")
    assert list(loaded) == ["webhook:http://h"]


def test_two_destinations_of_one_name_are_refused_as_they_would_share_the_alerts(tmp_path: Path):
    same = "  - {kind: otlp, endpoint: 'http://h:4318', signals: [%s]}\n"
    with pytest.raises(ConfigError, match=r"6:5: .*second destination 'otlp:http://h:4318'"):
        load(tmp_path, same % "logs" + same % "traces")


def test_two_destinations_at_one_place_get_everything_under_names_of_their_own(tmp_path: Path):
    with JsonReceiver() as receiver, Store(tmp_path / "alerts.sqlite") as store:
        twice = "".join(
            f"  - {{kind: webhook, name: {name}, url: '{receiver.url}/{name}'}}\n"
            for name in ("red", "blue")
        )
        senders = Senders(store, load(tmp_path, twice))
        ids = [store.add_alert(alert) or alert.id for alert in (make_alert(), make_alert())]
        store.flush()
        senders.drain(20)
        assert [each.name for each in status(store.path).destinations] == ["blue", "red"]
        assert senders.totals()["delivery/pending/red"] == 0
    for name in ("red", "blue"):
        posts = [json.loads(post.body) for post in receiver.posts if post.path == f"/{name}"]
        assert [alert["id"] for post in posts for alert in post["alerts"]] == ids


def examples() -> list[str]:
    return re.findall(r"```yaml\n(destinations:.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_the_documentation_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: str
):
    for name in ("HOOK_SECRET", "HOOK_TOKEN"):
        monkeypatch.setenv(name, "hush")
    assert load(tmp_path, example.removeprefix("destinations:\n"))


def test_every_kind_is_documented_with_an_example_and_every_option_named():
    page, shown = PAGE.read_text(), "".join(examples())
    kinds = {entry.name: entry.load() for entry in entry_points(group="saeguard.destinations")}
    assert {"otlp", "webhook", "alertmanager", "log"} <= set(kinds)
    for kind, factory in kinds.items():
        assert f"kind: {kind}" in shown
        for option in inspect.signature(factory).parameters:
            assert re.search(rf"\b{option}\b", page), f"{kind}: {option}"
