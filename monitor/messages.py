"""What vLLM's processes tell the monitor: msgpack messages, a frame's arrays as raw parts behind
it. And the little that the monitor tells them.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


ENGINE_CORE = -1
"""In the place of a worker's rank: the scheduler of the first engine; one less for each other."""


class TapStatus(msgspec.Struct, frozen=True, tag="taps"):
    """Whether this worker's taps are in the graph and right; sent after warm-up (worker). Or that
    requests cannot be named (EngineCore).
    """

    rank: int
    """As `worker` in `Frame`."""
    alive: bool
    reason: str = ""


class RequestStart(msgspec.Struct, frozen=True, tag="start"):
    """A request was scheduled for the first time, or ended before that (EngineCore)."""

    req_id: str
    """vLLM's internal id: the client's id and a random suffix."""
    external_id: str
    model: str
    tokenizer_file: str | None
    """A local tokenizer.json, or None when there is none to read."""
    prompt_token_ids: list[int]
    time_ns: int
    lora: str | None = None
    trace_headers: dict[str, str] | None = None
    tenant: str | None = None
    """From the request's `vllm_xargs`, as `client`, `policy` and `opt_out` are."""
    client: str | None = None
    policy: str | None = None
    opt_out: str = ""
    """Names of rules that the client asks to be left alone by, as it has written them."""
    num_cached: int = 0
    """How many of its first positions come from the prefix cache: their rows are not computed."""
    block_size: int = 0
    """In tokens, of the blocks that are hashed; 0: there is no prefix cache."""
    block_hashes: list[bytes] = []
    """Of the prompt's full blocks, in order. Each stands for all that is before it, too, and for
    the LoRA, the cache salt and the images: where two are equal, so are the scores.
    """
    num_dropped: int = 0
    """Messages that EngineCore has had to drop so far because the monitor's queue was full."""
    clock_ns: int = 0
    """As `time_ns`, by this machine's clock that nobody sets."""
    num_before: int = 0
    """Not 0 where it is told again, to a monitor that has come back: rows that were scheduled, or
    cached, before.
    """
    has_ended: bool = False
    """Told again, right behind its end: the monitor that had heard of it may not have stored it."""
    engine: int = 0
    """Data-parallel rank of the engine that serves it."""
    is_resumable: bool = False
    """Its client streams its input: `MoreInput` may come."""


STOP_REASON = "saeguard:"
"""Before the name of the rule that has ended a request: what its client reads as `stop_reason`."""

UNWATCHED = f"{STOP_REASON} no monitor"
"""The same where `fail: closed` has ended it. No rule has such a name."""


class NewBlocks(msgspec.Struct, frozen=True, array_like=True):
    """Full blocks that generated tokens have made."""

    first: int
    """Number of the first one in its request."""
    hashes: list[bytes]


class PrefixUpdate(msgspec.Struct, frozen=True, tag="prefix"):
    """What a step changed about the prefix cache for running requests (EngineCore). It comes before
    the start of any request that may find these blocks.
    """

    made: dict[str, NewBlocks] = {}
    skipped: dict[str, tuple[int, int]] = {}
    """Request that was resumed -> from which position to which it goes on with what others have
    computed in the meantime.
    """


class MoreInput(msgspec.Struct, frozen=True, tag="input"):
    """A client that streams its input has gone on with it after an answer (EngineCore). A last
    token of that answer that was not read is no part of the request any more.
    """

    req_id: str
    position: int
    """Of the first token of the new input."""
    prompt_token_ids: list[int]
    """All that it begins with now: what was its prompt before, what is left of the answer, and the
    new input.
    """


class RequestEnd(msgspec.Struct, frozen=True, tag="end"):
    """A request left the scheduler, for whatever reason (EngineCore)."""

    req_id: str
    reason: str
    """vLLM's status in lower case, or `saeguard:` and the rule that ended it."""
    num_scheduled: int
    """Rows that the scheduler asked the model to compute for this request, recomputed ones
    included.
    """
    num_cached: int
    """Positions that were served from the prefix cache and never computed for this request."""
    num_output_tokens: int
    """Behind the prompt."""
    time_ns: int
    num_dropped: int = 0
    """As in `RequestStart`."""


class Running(msgspec.Struct, frozen=True, tag="running"):
    """All that an engine knows of, when it starts and after messages were lost: what was announced
    and is not among it has ended (EngineCore).
    """

    engine: int
    """As in `RequestStart`."""
    req_ids: list[str]
    num_dropped: int = 0
    """As in `RequestStart`."""


class Part(msgspec.Struct, frozen=True, array_like=True):
    """Which share of a frame a stage of a pipeline has sent: the scores of the layers it holds."""

    engine: int
    """Data-parallel rank of the engine whose stage it is."""
    count: int
    """How many parts there are, each from a worker of its own."""
    columns: list[int]
    """Which of the watchlist's columns these scores are."""


class Frame(msgspec.Struct, frozen=True, tag="frame"):
    """The watched scores of one engine step (worker). Row r of the arrays belongs to the request
    whose
    `row_starts[i] <= r < row_starts[i + 1]`.
    """

    worker: int
    """Number of the sender among the workers of all data-parallel engines: rank in its engine, and
    the workers of the engines before."""
    step: int
    """Counts the steps of the engine, the same in all of its workers."""
    watchlist: str
    """Digest of the watchlist whose rows made the scores."""
    req_ids: list[str]
    row_starts: list[int]
    tap_calls: list[int]
    """Device-side call counters, one per tapped site: they must advance at every step."""
    num_features: int
    time_ns: int
    """When the forward pass had been enqueued on the worker."""
    dropped_frames: int
    """Frames this worker has had to drop so far because the monitor's queue was full."""
    num_drafts: list[int] = []
    """[requests], how many of each one's last rows read speculated tokens; empty: none at all."""
    part: Part | None = None
    """None: the frame is whole."""


SwapState = Literal["ready", "done", "refused"]
"""`done`: from the worker's next step on, the new rows make the scores."""


class SwapStatus(msgspec.Struct, frozen=True, tag="swap_status"):
    """What a worker answers to `Swap` (worker)."""

    rank: int
    """As `worker` in `Frame`."""
    num_workers: int
    """Of this worker's engine: each must answer."""
    watchlist: str
    """The digest that was asked for."""
    state: SwapState
    reason: str = ""
    """Why it was refused."""


Message = (
    TapStatus | RequestStart | PrefixUpdate | MoreInput | RequestEnd | Running | Frame | SwapStatus
)


class Swap(msgspec.Struct, frozen=True, tag="swap"):
    """Watch with the watchlist of this digest, which is in the configured file (monitor to every
    worker). Without `go` a worker loads and tests it, and changes nothing yet.
    """

    watchlist: str
    go: bool


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End this request; a request that has ended is left alone (monitor to EngineCore)."""

    req_id: str
    rule: str
    """Its name, for the client, like all that follows."""
    severity: str
    alert_id: str


class Alive(msgspec.Struct, frozen=True, tag="alive"):
    """A sign of life, where the configuration says `fail: closed` (monitor to EngineCore)."""

    instance: str
    """Another one for each monitor process."""
    blind: str = ""
    """Why it sees nothing, although it is there."""


Control = Swap | Stop | Alive
"""What the monitor may say. Whoever hears a kind that is not for him ignores it."""


class FrameArrays(msgspec.Struct, frozen=True):
    """The arrays of a `Frame`."""

    scores: Floats  # [tokens, features]
    token_ids: Ints  # [tokens]
    positions: Ints  # [tokens]


_NO_SCORES = np.empty(0, np.float32)
_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)
_CONTROL_DECODER: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)


def encode(message: Message, arrays: FrameArrays | None = None) -> bytes:
    """The length of the header, the header, and a frame's arrays one after the other."""
    header = _ENCODER.encode(message)
    parts: list[bytes | memoryview] = [len(header).to_bytes(4, "little"), header]
    if arrays is not None:
        parts.append(bytes(-len(header) % 4))  # aligns the arrays
        parts.append(np.ascontiguousarray(arrays.scores, dtype=np.float32).data)
        parts.append(np.ascontiguousarray(arrays.token_ids, dtype=np.int32).data)
        parts.append(np.ascontiguousarray(arrays.positions, dtype=np.int32).data)
    return b"".join(parts)


def decode(data: bytes) -> tuple[Message, FrameArrays | None]:
    """The inverse of `encode`; the arrays are views of `data`, and read-only.

    Raises:
        msgspec.MsgspecError, ValueError: the bytes are not one of our messages.
    """
    end = 4 + int.from_bytes(data[:4], "little")
    message = _DECODER.decode(memoryview(data)[4:end])
    if not isinstance(message, Frame):
        return message, None
    if len(message.row_starts) != len(message.req_ids) + 1:
        raise ValueError("row_starts does not fit req_ids")
    start = end + -end % 4
    num_rows, num_scores = message.row_starts[-1], message.row_starts[-1] * message.num_features
    scores = np.frombuffer(data, np.float32, num_scores, start) if num_scores else _NO_SCORES
    if len(data) - start != 4 * num_scores + 8 * num_rows:
        raise ValueError("the arrays do not have the announced length")
    integers = np.frombuffer(data, np.int32, offset=start + 4 * num_scores)
    return message, FrameArrays(
        scores=scores.reshape(num_rows, message.num_features),
        token_ids=integers[:num_rows],
        positions=integers[num_rows:],
    )


def encode_control(message: Control) -> bytes:
    return _ENCODER.encode(message)


def decode_control(data: bytes) -> Control:
    """
    Raises:
        msgspec.MsgspecError: the bytes are not a message of the monitor's.
    """
    return _CONTROL_DECODER.decode(data)
