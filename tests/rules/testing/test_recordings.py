"""Tests of recorded requests."""

import numpy as np
import pytest

from saeguard.rules import Phase, RequestContext
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import write_recordings
from tests.rules.testing.suites import findings, outcome


def recorded(*scores, columns=("lie", "calm", "other"), minute=0, tenant="a"):
    """A request of two prompt tokens, and an answer with these scores of `lie`."""
    rows = np.zeros((2 + len(scores), len(columns)), np.float32)
    rows[2:, 0] = scores
    phases = [Phase.PROMPT] * 2 + [Phase.ANSWER] * len(scores)
    return RecordedRequest(
        context=RequestContext(model="good/one", tenant=tenant, id=f"r-{minute}"),
        columns=columns,
        scores=rows,
        positions=np.arange(len(rows), dtype=np.int32),
        phases=np.array(phases, np.uint8),
        time_ns=minute * 60 * 10**9,
    )


@pytest.mark.parametrize("name", ["run.jsonl", "run.safetensors"])
def test_recorded_requests_are_played_like_streams(tmp_path, name):
    requests = [recorded(0, 3, 3), recorded(0, 0, 0, minute=1), recorded(3, 3, minute=2)]
    write_recordings(tmp_path / name, requests)
    test = f"""\
  - name: t
    recording: {name}
    expect:
      - {{rule: lying, request: 0, at: {{phase: answer, token: 2}}}}
      - {{rule: lying, request: 2, at: {{phase: answer, token: 1}}}}
"""
    assert outcome(tmp_path, test) == ("ok", [])


def test_a_recording_must_hold_what_the_rules_read(tmp_path):
    write_recordings(tmp_path / "run.jsonl", [recorded(3, 3, columns=("lie", "other"))])
    assert findings(tmp_path, "  - {name: t, recording: run.jsonl}\n") == [
        "3:26: run.jsonl holds no scores of the feature 'calm'"
    ]


@pytest.mark.parametrize("content", [None, "not json\n", '{"columns": 3}\n'])
def test_a_recording_that_cannot_be_read_is_an_error_of_the_test(tmp_path, content):
    if content is not None:
        (tmp_path / "run.jsonl").write_text(content)
    (finding,) = findings(tmp_path, "  - {name: t, recording: run.jsonl}\n")
    assert finding.startswith("3:26: ")
    assert "run.jsonl" in finding


def test_the_requests_of_a_recording_bring_their_own_context(tmp_path):
    write_recordings(tmp_path / "run.jsonl", [recorded(3, 3)])
    test = "  - {name: t, recording: run.jsonl, request: {tenant: b}}\n"
    assert findings(tmp_path, test) == ["3:46: 'request' does not go with 'recording'"]
