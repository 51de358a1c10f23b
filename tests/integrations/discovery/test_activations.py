"""Reading captured activations."""

from __future__ import annotations

import numpy as np
import pytest

from saeguard.integrations.discovery.activations import (
    activations_at,
    column_names,
    hook_points_of,
)
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.sites import HookPoint
from saeguard.rules import RequestContext
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import read_recordings, write_recordings

POST = HookPoint(3)
MID = HookPoint(1, "resid_mid")


def recorded(columns: tuple[str, ...], num_tokens: int = 4) -> RecordedRequest:
    """Scores 0, 1, 2, ... along the columns, plus 100 for each token."""
    rows = np.arange(len(columns)) + 100 * np.arange(num_tokens)[:, None]
    return RecordedRequest(
        context=RequestContext(id="r1"),
        columns=columns,
        scores=rows.astype(np.float32),
        positions=np.arange(num_tokens, dtype=np.int32),
        phases=np.full(num_tokens, 3, np.uint8),
    )


def test_activations_of_two_places_are_told_from_each_other_and_from_features(tmp_path):
    columns = ("deceit", *column_names(POST, 5), "a/b", *column_names(MID, 5), "odd/3")
    path = tmp_path / "recorded-00000.safetensors"
    write_recordings(path, [recorded(columns)])
    (request,) = read_recordings(path)
    assert hook_points_of(request) == (MID, POST)
    assert activations_at(request, POST).tolist()[1] == [101, 102, 103, 104, 105]
    assert activations_at(request, MID).tolist()[0] == [7, 8, 9, 10, 11]
    assert activations_at(request, MID).dtype == np.float32


def test_coordinates_count_by_their_numbers_not_by_their_places():
    shuffled = tuple(column_names(POST, 12)[i] for i in (11, 3, 0, 5, 1, 10, 2, 9, 4, 8, 6, 7))
    request = recorded(shuffled)
    assert activations_at(request, POST)[0].tolist() == [
        shuffled.index(f"{POST}/{i}") for i in range(12)
    ]


def test_what_was_not_captured_is_refused_with_what_was():
    request = recorded(column_names(POST, 3))
    with pytest.raises(ConfigError, match=r"r1: .*resid_mid; those it has: blocks\.3"):
        activations_at(request, MID)
    with pytest.raises(ConfigError, match="some coordinates of"):
        activations_at(recorded(column_names(POST, 3)[1:]), POST)
    assert hook_points_of(recorded(("deceit",))) == ()
