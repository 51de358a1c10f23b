"""Speaks to a monitor as vLLM's processes would: for tests of the monitor alone."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from pathlib import Path

import numpy as np
import zmq
from safetensors.numpy import save_file

from saeguard.monitor.messages import Frame, FrameArrays, Message, RequestEnd, RequestStart, encode

RULES = """
version: 1
ruleset: {name: synthetic, version: 1.0.0}
features:
  deceit: {probe: {path: probe.safetensors}, name: deceit, label: "about to deceive"}
  calm: {probe: {path: probe.safetensors}, name: calm}
rules:
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11
    name: deception
    title: Deception
    status: test
    severity: high
    scope: {phase: [answer]}
    signals:
      lie: {feature: deceit, agg: max, window: 8 tokens, gte: 4.0}
      calm: {feature: calm, agg: value, gt: 1.0}
    condition: lie and not calm
    limit: {per: request, max: 1}
    message: "{rule.title}: {signal.lie.value:.1f} on {signal.lie.token!r}"
    tags: [harm.deception]
    falsepositives: []
"""


ON_A_LIE = """
  - id: 00000000-0000-4000-8000-00000000000{number}
    name: {name}
    title: A lie
    status: test
    severity: high
    signals:
      lie: {{feature: deceit, agg: value, gte: 4.0}}
    condition: lie
    message: "a lie"
    {more}
"""
"""One more rule, which fires on a lie: its number and name, and `more` of its keys."""

PROBES = ("deceit", "calm")


def write_rules(directory: Path, d_model: int = 8, names: tuple[str, ...] = PROBES) -> Path:
    """A rule file and the probe file that it names."""
    header = {"hook_name": "blocks.1.hook_resid_post", "names": names}
    tensors = {
        "weight": np.eye(len(names), d_model, dtype=np.float32),
        "bias": np.zeros(len(names), np.float32),
    }
    probe = {"saeguard_probe": json.dumps(header)}
    save_file(tensors, directory / "probe.safetensors", metadata=probe)
    path = directory / "rules.yaml"
    path.write_text(RULES)
    return path


def hashes_of(token_ids: list[int], size: int = 4, salt: str = "") -> list[bytes]:
    """Of the full blocks of so many tokens."""
    ends = range(size, len(token_ids) + 1, size)
    return [hashlib.sha256(f"{salt}{token_ids[:end]}".encode()).digest() for end in ends]


class FakeEngine:
    """Numbers frames and taps as a worker does."""

    def __init__(self, endpoint: str, watchlist: str, columns: tuple[str, ...]) -> None:
        self._socket = zmq.Context.instance().socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 5_000)
        self._socket.connect(endpoint)
        self._watchlist = watchlist
        self._columns = columns
        self._steps = itertools.count(1)

    def take(self, watchlist: str, columns: tuple[str, ...]) -> None:
        """The frames from now on are of another watchlist."""
        self._watchlist = watchlist
        self._columns = columns

    def send(self, message: Message, arrays: FrameArrays | None = None) -> None:
        self._socket.send(encode(message, arrays))

    def start(self, req_id: str, prompt: list[int], **fields: object) -> None:
        self.send(start_message(req_id, prompt, **fields))

    def step(self, rows: dict[str, tuple[int, list[list[float]]]], **fields: object) -> None:
        """One frame: request -> (first position, [deceit, calm] of each row)."""
        self.send(*frame_message(rows, next(self._steps), self._watchlist, self._columns, **fields))

    def end(self, req_id: str, num_scheduled: int, **fields: object) -> None:
        self.send(end_message(req_id, num_scheduled, **fields))

    def close(self) -> None:
        self._socket.close()


def start_message(req_id: str, prompt: list[int], **fields: object) -> RequestStart:
    values = {
        "external_id": req_id.rpartition("-")[0] or req_id,
        "time_ns": time.time_ns(),
        "clock_ns": time.monotonic_ns(),
        **fields,
    }
    return RequestStart(
        req_id=req_id,
        model="synthetic",
        tokenizer_file=None,
        prompt_token_ids=prompt,
        **values,
    )


def end_message(req_id: str, num_scheduled: int, **fields: object) -> RequestEnd:
    values = {"reason": "stopped", "num_cached": 0, "num_output_tokens": 2, **fields}
    return RequestEnd(req_id=req_id, num_scheduled=num_scheduled, time_ns=time.time_ns(), **values)


def frame_message(
    rows: dict[str, tuple[int, list[list[float]]]],
    step: int,
    watchlist: str,
    columns: tuple[str, ...] = ("deceit", "calm"),
    **fields: object,
) -> tuple[Frame, FrameArrays]:
    counts = [len(values) for _, values in rows.values()]
    scores = np.array([row for _, values in rows.values() for row in values], np.float32)
    scores = scores[:, [(*PROBES, "anger").index(name) for name in columns]]
    positions = [first + i for first, values in rows.values() for i in range(len(values))]
    frame = Frame(
        worker=0,
        step=step,
        watchlist=watchlist,
        req_ids=list(rows),
        row_starts=[0, *itertools.accumulate(counts)],
        num_features=len(columns),
        time_ns=time.time_ns(),
        **{"tap_calls": [step], "dropped_frames": 0, **fields},
    )
    token_ids = np.array([100 + p for p in positions], np.int32)
    return frame, FrameArrays(scores, token_ids, np.array(positions, np.int32))
