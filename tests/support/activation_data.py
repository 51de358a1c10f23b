"""Recordings of activations as `saeguard capture --activations` leaves them, made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from saeguard.integrations.discovery.activations import activations_at
from saeguard.integrations.vllm.tap_rows import halves
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.live_heads import with_scores
from saeguard.rules import RequestContext
from saeguard.rules.calibration.labels import Example, Label, write_labels
from saeguard.rules.phases import Phase
from saeguard.rules.recordings.offline import RecordedRequest
from saeguard.rules.recordings.recording import write_recordings

EARLY, LATE = "blocks.1.hook_resid_post", "blocks.4.hook_resid_post"
WIDTH, NUM_PROMPT = 24, 3
_SCALES = np.geomspace(0.5, 3.0, WIDTH)  # of the coordinates, which differ in real streams, too


def example(name: str, answer: dict[str, np.ndarray], **label: object) -> Example:
    """A prompt of ones, then the answer's activations [tokens, WIDTH] at each hook point."""
    num_tokens = NUM_PROMPT + len(next(iter(answer.values())))
    scores = np.ones((num_tokens, WIDTH * len(answer)), np.float32)
    scores[NUM_PROMPT:] = np.concatenate(list(answer.values()), axis=1)
    phases = np.full(num_tokens, Phase.ANSWER.value, np.uint8)
    phases[:NUM_PROMPT] = Phase.PROMPT.value
    columns = tuple(f"{at}/{i}" for at in answer for i in range(WIDTH))
    positions = np.arange(num_tokens, dtype=np.int32)
    request = RecordedRequest(RequestContext(id=name), columns, scores, positions, phases)
    known = Label(name, **label)  # type: ignore[arg-type]
    return Example(request, known, known.label)  # type: ignore[arg-type]


def examples(
    number: int, seed: int = 0, strength: float = 3.0, num_groups: int = 20, per_group: float = 0.0
) -> list[Example]:
    """Half of them are positive, by group; then some tokens of an answer are pushed along one
    direction at `LATE`, and at `EARLY` not at all.

    Args:
        per_group: how far each group's own direction moves all of its tokens.
    """
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(num_groups, WIDTH))
    direction = np.zeros(WIDTH)
    direction[1:3] = 1.0, -1.0
    found = []
    for i in range(number):
        group = i % num_groups
        lies = group % 2 == 0
        early, late = rng.normal(size=(2, rng.integers(6, 14), WIDTH)) + per_group * own[group]
        if lies:
            late[2:5] += strength * direction
        answer = {EARLY: early * _SCALES, LATE: late * _SCALES}
        source = ("arena", "forum")[i % 3 == 0]
        about = {"label": lies, "group": f"g{group}", "source": source}
        if lies:
            about["span"] = (NUM_PROMPT + 2, NUM_PROMPT + 5)
        found.append(example(f"r{seed}-{i}", answer, **about))
    return found


def write(directory: Path, found: Sequence[Example]) -> Path:
    """Recordings in two shards, and their labels."""
    directory.mkdir()
    for number, shard in enumerate((found[::2], found[1::2])):
        requests = [example.request for example in shard]
        write_recordings(directory / f"recorded-{number:05}.safetensors", requests)
    write_labels(directory / "labels.jsonl", [example.label for example in found])
    return directory


def served(
    rules: Path, found: Sequence[Example], dtype: torch.dtype = torch.float32
) -> list[Example]:
    """What a monitor would record of the rules' features, by the tap's arithmetic.

    Args:
        dtype: of the activations; of 16 bits, rows are in two halves.
    """
    watchlist = compile_watchlist(read_rules([str(rules)]))
    recorded = []
    for example in found:
        parts = []
        for site in watchlist.sites:
            x = torch.tensor(activations_at(example.request, site.hook_point)).to(dtype).float()
            high, low = halves(torch.from_numpy(site.weight), dtype).float().chunk(2)
            parts.append((x @ high.T + x @ low.T).numpy() + site.bias)
        scores = np.concatenate(parts, axis=1).astype(np.float32)
        request = replace(example.request, columns=watchlist.columns, scores=scores)
        recorded.append(replace(example, request=with_scores(request, watchlist.heads)))
    return recorded
