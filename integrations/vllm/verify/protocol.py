"""What `saeguard verify` and the process with its engine say to each other: JSON, one message a
line.
"""

from __future__ import annotations

import msgspec


class Ask(msgspec.Struct, frozen=True):
    """A request to generate greedily."""

    id: str
    """Without a dash, after which vLLM puts characters of its own."""
    prompt: list[int]
    max_tokens: int
    salt: str | None = None
    """Of the prefix cache: requests of different salts share nothing."""
    is_recorded: bool = True
    """Whether the rule of `setting` is to see it, which makes the monitor keep its scores."""


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Asks for `EngineFacts`."""


class Serve(msgspec.Struct, frozen=True, tag="serve"):
    """Asks for these requests to be answered together: `Served`."""

    asks: list[Ask]


class Answer(msgspec.Struct, frozen=True):
    """What the engine made of a request."""

    token_ids: list[int]
    """Those that it generated."""
    num_cached: int
    """How many of the prompt's tokens vLLM says it had in its prefix cache."""


class Served(msgspec.Struct, frozen=True, tag="served"):
    """Answers by the requests' ids."""

    answers: dict[str, Answer]
    took_s: float


class WorkerFacts(msgspec.Struct, frozen=True):
    """What one worker says of itself, and of its taps."""

    rank: int
    runner: str
    """`V1` or `V2`, vLLM's model runner."""
    device: str
    """`cpu` or `cuda`."""
    device_name: str
    dtype: str
    compile_mode: str
    cudagraph_mode: str
    is_watched: bool = False
    num_steps: int = 0
    """In so many it was to send scores; none where it only computes for others of its group."""
    places: list[str] = []
    """Sites that are tapped."""
    calls: list[int] = []
    """Per tap, how often the op has run by the counter on the device."""
    is_written: list[bool] = []
    """Per tap, whether its score buffer holds any number: it starts as NaN."""
    is_keyed: bool = False
    """Whether the layout of its taps stands in vLLM's configuration."""
    is_key_effective: bool = False
    """Whether vLLM's cache key is another one with it than without."""


class EngineFacts(msgspec.Struct, frozen=True, tag="facts"):
    """What the engine was started with, and its workers."""

    vllm_version: str
    model: str
    revision: str | None
    trust_remote_code: bool
    max_model_len: int
    max_step_tokens: int
    """At most so many tokens are computed in a step: longer prompts come in chunks."""
    block_size: int
    prefix_caching: bool
    token_ids: list[int]
    """Some ordinary tokens of the vocabulary, for prompts."""
    workers: list[WorkerFacts]


Command = Look | Serve
Reply = EngineFacts | Served
