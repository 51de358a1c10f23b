"""Requests of the store become recordings, on which the rules do again what they did live."""

from __future__ import annotations

import json

import numpy as np
import pytest
from console_script import console_script
from fake_engine import end_message, frame_message, start_message, write_rules
from records import make_alert, make_request

from saeguard.monitor.detector import Detector
from saeguard.monitor.recordings import recorded_request
from saeguard.monitor.store import Store, list_requests
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, RequestContext, load_rules
from saeguard.rules.recordings.recording import read_recordings

NAN = float("nan")


@pytest.fixture
def saeguard(monkeypatch, capsys, tmp_path):
    return console_script(monkeypatch, capsys, tmp_path)


def keep(path, *requests, alerts=()):
    with Store(path / "saeguard-alerts.sqlite") as store:
        for alert in alerts:
            store.add_alert(alert)
        for request in requests:
            store.add_request(request)


def live_request(rules, rows, prompt_len=3):
    """Feeds a detector token by token: the alert's position, and the record that is stored."""
    detector = Detector(Engine(load_rules([rules]), ["deceit", "calm"]), "w", 2, record_tokens=64)
    detector.start(
        start_message("r-1", list(range(prompt_len)), tenant="blue"), TokenTexts(None, False)
    )
    found = []
    for step, row in enumerate(rows):
        found += detector.observe(*frame_message({"r-1": (step, [row])}, step + 1, "w"), 0.0)
    num_output = len(rows) - prompt_len + 1
    detector.end(end_message("r-1", len(rows), num_output_tokens=num_output), 0.0)
    (request,) = detector.finished(0.0)
    return [detection.match.position for detection in found], request.record(("deceit", "calm"))


@pytest.mark.parametrize("suffix", ["safetensors", "jsonl"])
def test_an_exported_request_raises_the_alerts_that_it_raised_live(saeguard, tmp_path, suffix):
    rng = np.random.default_rng(0)
    rules, name = write_rules(tmp_path), f"runs.{suffix}"
    rows = [[5.0 * (token == 9), rng.random()] for token in range(14)]
    positions, record = live_request(rules, rows)
    keep(tmp_path, record)
    code, out, _ = saeguard("alerts", "export", "-o", name)
    assert (code, out) == (0, f"wrote 1 request to {name}\n")
    code, out, _ = saeguard("replay", "rules.yaml", name, "--format", "json")
    replayed = json.loads(out)["alerts"]
    assert code == 0
    assert [(alert["request"], alert["position"]) for alert in replayed] == [("r", 9)]
    assert positions == [9]


def test_a_recording_has_what_the_record_has(saeguard, tmp_path):
    record = make_request(
        scores=[NAN, 0.5, 7.21],
        first_recorded=4,
        client="c",
        lora="l",
        token_ids=[5, 6, 7],
        start_time_ns=123,
        watchlist="ab",
    )
    keep(tmp_path, record)
    saeguard("alerts", "export", "-o", "runs.jsonl")
    (request,) = read_recordings(tmp_path / "runs.jsonl")
    assert request.context == RequestContext("org/model", "l", "acme", "c", "chatcmpl-1")
    assert request.columns == ("deceit",)
    assert request.positions.tolist() == [4, 5, 6]
    assert request.token_ids.tolist() == [5, 6, 7]
    assert request.phases.tolist() == list(record.phases)
    assert (request.time_ns, request.watchlist) == (123, "ab")
    np.testing.assert_array_equal(request.scores, record.score_array())


def test_a_token_that_was_not_seen_is_in_the_phase_of_the_one_before():
    record = make_request(scores=[NAN, 0.5, NAN, NAN, 1.0], phases=[1, 3, 0, 0, 3], texts=None)
    assert recorded_request(record).phases.tolist() == [1, 3, 3, 3, 3]


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({}, ""),
        ({"scores": [0.0, NAN, 1.0, 2.0]}, "only 3 of its 4 tokens recorded"),
        ({"first_recorded": 90, "num_tokens": 95}, "only 3 of its 94 tokens recorded"),
        ({"num_tokens": 7}, "only 4 of its 6 tokens recorded"),
        ({"num_tokens": 2, "prompt_len": 2, "scores": [NAN, 1.0], "phases": [1, 1]}, ""),
    ],
)
def test_requests_of_which_only_a_part_was_recorded_are_named(saeguard, tmp_path, fields, part):
    whole = {"scores": [NAN, 0.0, 1.0, 2.0], "phases": [1, 1, 3, 3], "num_tokens": 5}
    keep(tmp_path, make_request(**whole | {"prompt_len": 2, "texts": None} | fields))
    _, out, _ = saeguard("alerts", "export")
    assert out.splitlines()[1:] == ([f"  chatcmpl-1: {part}"] if part else [])


def test_an_export_can_be_narrowed_to_the_newest_and_to_those_of_a_rule(saeguard, tmp_path):
    requests = [make_request(req_id=name, request_id=name) for name in "abcd"]
    keep(tmp_path, *requests, alerts=[make_alert(req_id=name, rule_name="x") for name in "bca"])
    store = tmp_path / "saeguard-alerts.sqlite"
    assert [each.req_id for each in list_requests(store, limit=2)] == ["c", "d"]
    assert [each.req_id for each in list_requests(store, rule="x")] == ["a", "b", "c"]
    assert "wrote 2 requests" in saeguard("alerts", "export", "--rule", "x", "--limit", "2")[1]
    requests = read_recordings(tmp_path / "recordings.safetensors")
    assert [request.context.id for request in requests] == ["b", "c"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rule", "y"], "no request on which 'y' alerted is stored"),
        (["--store", "missing.sqlite"], "there is no alert store at missing.sqlite"),
        (["-o", "runs.csv"], "runs.csv: the name of a recording ends in .jsonl or .safetensors"),
        (["-o", "no/runs.jsonl"], "no/runs.jsonl: cannot be written: No such file or directory"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(saeguard, tmp_path, arguments, reason):
    keep(tmp_path, make_request())
    code, out, err = saeguard("alerts", "export", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {reason}")
