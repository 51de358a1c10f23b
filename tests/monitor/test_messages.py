"""Messages survive the wire, and what is no message of ours is refused."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from fake_engine import end_message, frame_message, start_message

from saeguard.monitor.messages import (
    FrameArrays,
    NewBlocks,
    PrefixUpdate,
    TapStatus,
    decode,
    encode,
)


@pytest.mark.parametrize("req_id", ["a", "ab", "abc", "abcd"])
def test_a_frame_keeps_its_arrays_whatever_the_length_of_its_header(req_id: str):
    frame, arrays = frame_message({req_id: (7, [[1.5, -2.0], [np.nan, np.inf]])}, 3, "w")
    got_frame, got = decode(encode(frame, arrays))
    assert got_frame == frame
    assert isinstance(got, FrameArrays)
    np.testing.assert_array_equal(got.scores, arrays.scores)
    np.testing.assert_array_equal(got.positions, [7, 8])
    np.testing.assert_array_equal(got.token_ids, arrays.token_ids)


def test_the_other_messages_have_no_arrays():
    update = PrefixUpdate(made={"a": NewBlocks(2, [b"x", b"y"])}, skipped={"b": (3, 16)})
    start = start_message("a", [1, 2], block_size=16, block_hashes=[b"x"])
    for message in (start, update, end_message("a", 3), TapStatus(rank=0, alive=True)):
        assert decode(encode(message)) == (message, None)


@pytest.mark.parametrize("cut", [0, 3, 4, 40, -1, -9])
def test_a_damaged_frame_is_refused(cut: int):
    data = encode(*frame_message({"a": (0, [[1.0, 2.0]])}, 1, "w"))
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        decode(data[:cut])
