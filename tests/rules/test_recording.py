"""Recordings keep what they are given, and files that are none are refused with their place."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from saeguard.rules import Phase, RequestContext
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.recordings.recording import read_recordings, write_recordings

LINE = {"phases": "prompt:2 answer:1", "features": {"lie": [0, None, 4.5], "claim": [1, 2, 3]}}
FORMATS = pytest.mark.parametrize("suffix", [".jsonl", ".safetensors"])


def recorded(num_tokens=4, first=0, columns=("a", "b"), **fields):
    rng = np.random.default_rng(num_tokens)
    scores = rng.standard_normal((num_tokens, len(columns))).astype(np.float32)
    scores[rng.random(scores.shape) < 0.3] = np.nan
    phases = np.sort(rng.integers(0, len(Phase), num_tokens)).astype(np.uint8)
    positions = np.arange(first, first + num_tokens, dtype=np.int32)
    return RecordedRequest(
        fields.pop("context", RequestContext()), columns, scores, positions, phases, **fields
    )


SOME = [
    recorded(),
    recorded(
        9, columns=("c",), context=RequestContext("m", "l", "t", "c", "r"), time_ns=10**18 + 1
    ),
    recorded(300, first=17, token_ids=np.arange(300, dtype=np.int32), watchlist="ab"),
    recorded(0),
    recorded(3, columns=()),
]


@FORMATS
def test_what_is_written_is_read_again_to_the_last_bit(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    write_recordings(path, SOME)
    found = read_recordings(path)
    for before, after in zip(SOME, found, strict=True):
        assert (before.context, before.columns) == (after.context, after.columns)
        assert (before.time_ns, before.watchlist) == (after.time_ns, after.watchlist)
        for name in ("scores", "positions", "phases", "token_ids"):
            np.testing.assert_array_equal(getattr(before, name), getattr(after, name))
            assert getattr(before, name) is None or (
                getattr(before, name).dtype == getattr(after, name).dtype
            )


@FORMATS
def test_a_file_is_replaced_in_one_move_and_nothing_else_is_left(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    write_recordings(path, SOME)
    write_recordings(path, SOME[:1])
    assert len(read_recordings(path)) == 1
    assert list(tmp_path.iterdir()) == [path]


@FORMATS
def test_a_file_that_cannot_be_written_leaves_nothing_and_is_named(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    path.mkdir()
    with pytest.raises(RecordingError, match=f"runs{suffix}: cannot be written"):
        write_recordings(path, SOME)
    assert list(tmp_path.iterdir()) == [path]


@FORMATS
def test_a_recording_without_requests_is_refused(tmp_path, suffix):
    write_recordings(tmp_path / f"runs{suffix}", [])
    with pytest.raises(RecordingError, match=r"runs\..*: holds no requests"):
        read_recordings(tmp_path / f"runs{suffix}")


def read_lines(tmp_path, *lines):
    path = tmp_path / "runs.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts))
    return read_recordings(path)


def test_a_line_is_written_by_hand_as_the_module_describes(tmp_path):
    context = {"id": "r1", "model": "org/model", "tenant": "blue"}
    line = LINE | {"context": context, "time": "1970-01-01T00:00:01.5Z"}
    (request,) = read_lines(tmp_path, "", line, "")
    assert request.context == RequestContext("org/model", None, "blue", None, "r1")
    assert request.columns == ("lie", "claim")
    assert request.scores[:, 1].tolist() == [1, 2, 3]
    assert np.isnan(request.scores[:, 0]).tolist() == [False, True, False]
    assert request.phases.tolist() == [Phase.PROMPT, Phase.PROMPT, Phase.ANSWER]
    assert request.positions.tolist() == [0, 1, 2]
    assert request.time_ns == 1_500_000_000
    assert request.source == f"{tmp_path}/runs.jsonl:2"


def test_the_example_in_the_documentation_is_read(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "replaying-rules.md"
    (example,) = re.findall(r"```json\n(.*?)\n```", page.read_text())
    (request,) = read_lines(tmp_path, example)
    assert (request.context.id, request.columns) == ("r1", ("deceit",))


def test_phases_may_be_a_list(tmp_path):
    (request,) = read_lines(tmp_path, LINE | {"phases": ["system", "prompt", "answer"]})
    assert request.phases.tolist() == [Phase.SYSTEM, Phase.PROMPT, Phase.ANSWER]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ("nonsense", "malformed"),
        ('{"phases": "answer:1", "features": {"a": [NaN]}}', "malformed"),
        ({}, "missing required field `phases`"),
        (LINE | {"feature": {}}, "unknown field `feature`"),
        (LINE | {"context": {"user": "x"}}, "unknown field `user` - at `$.context`"),
        (LINE | {"features": {"a": [0, "x", 1]}}, "got `str` - at `$.features[...][1]`"),
        (LINE | {"features": {"a": [0, 1]}}, "'a' has 2 scores for 3 tokens"),
        (LINE | {"features": {"a": [0, 1, 1e39]}}, "a score is infinite"),
        (
            LINE | {"phases": "prompt 3"},
            "phases are written like 'prompt:2 answer:3', not 'prompt'",
        ),
        (
            '{"phases": "answer:1", "features": {"a": [9], "a": [1]}}',
            "the key 'a' is given twice",
        ),
        (LINE | {"phases": "prompts:3"}, "unknown phase 'prompts'"),
        (LINE | {"phases": ["prompt", "answer", "?"]}, "unknown phase '?'"),
        (LINE | {"phases": "answer:999999999 " * 9}, "more than 10,000,000 tokens"),
        (LINE | {"positions": [0, 1]}, "scores are 3x2, for 2 tokens and 2 features"),
        (LINE | {"positions": [0, 2, 2]}, "positions must rise"),
        (LINE | {"positions": [-1, 0, 1]}, "positions must rise"),
        (LINE | {"positions": [0, 1, 2**40]}, "out of bounds"),
        (LINE | {"token_ids": [5, 6]}, "2 token ids for 3 tokens"),
        (LINE | {"time": "yesterday"}, "a time is written like"),
        (LINE | {"time": "2026-13-01T00:00:00Z"}, "month must be in 1..12"),
        (LINE | {"time": "1969-12-31T23:59:59Z"}, "not within 1970 to 2262"),
    ],
)
def test_a_wrong_line_is_named_with_the_reason(tmp_path, line, reason):
    with pytest.raises(RecordingError) as caught:
        read_lines(tmp_path, LINE, line)
    assert str(caught.value).startswith(f"{tmp_path}/runs.jsonl:2: ")
    assert reason in str(caught.value)


def test_a_foreign_safetensors_file_is_no_recording(tmp_path):
    path = tmp_path / "watch.safetensors"
    save_file({"weight": np.zeros(3)}, path, metadata={"saeguard": "{}"})
    with pytest.raises(RecordingError, match=r"watch.safetensors: holds no recorded requests"):
        read_recordings(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"0.scores": None}, "request 1: the tensor of its scores is damaged"),
        ({"0.positions": np.zeros(4, np.float32)}, "the tensor of its positions is damaged"),
        ({"0.phases": np.zeros((4, 1), np.uint8)}, "the tensor of its phases is damaged"),
        ({"0.phases": np.zeros(5, np.uint8)}, "request 1: 5 phases for 4 tokens"),
        ({"0.phases": np.full(4, 9, np.uint8)}, "9 is the code of no phase"),
        ({"0.scores": np.full((4, 2), np.inf, np.float32)}, "a score is infinite"),
    ],
)
def test_damaged_tensors_are_named(tmp_path, changes, reason):
    path = tmp_path / "runs.safetensors"
    write_recordings(path, SOME[:1])
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors = {name: array for name, array in (tensors | changes).items() if array is not None}
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(RecordingError) as caught:
        read_recordings(path)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)


@FORMATS
def test_whatever_happens_to_a_file_it_is_read_or_refused_with_its_name(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    write_recordings(path, SOME)
    whole = path.read_bytes()
    rng = random.Random(0)
    refusals = []
    for _ in range(1500):
        damaged = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(4)):
            at = rng.randrange(min(len(damaged), 2000)) if damaged else 0
            damaged[at : at + 1] = bytes(rng.randrange(256) for _ in range(rng.randrange(3)))
        path.write_bytes(damaged)
        try:
            read_recordings(path)
        except RecordingError as error:
            refusals.append(str(error))
    assert len(refusals) > 500
    assert all(str(path) in refusal for refusal in refusals)


def test_a_missing_file_and_an_unknown_suffix_are_named(tmp_path):
    with pytest.raises(RecordingError, match=r"no.jsonl: cannot be read: No such file"):
        read_recordings(tmp_path / "no.jsonl")
    with pytest.raises(RecordingError, match=r"no.safetensors: cannot be read"):
        read_recordings(tmp_path / "no.safetensors")
    with pytest.raises(
        RecordingError, match=r"runs.npy: the name of a recording ends in .jsonl or"
    ):
        read_recordings(tmp_path / "runs.npy")
