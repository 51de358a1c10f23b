"""The tap runs in every replay of a CUDA graph that holds it, and its scores are those of the
replayed input: whole forward passes as vLLM captures them in FULL mode, the pieces between two
attentions in PIECEWISE mode, eager and compiled.

On a CPU the same forward passes run as they are, without a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tapped_model import (
    COMPILE,
    D_MODEL,
    MAX_TOKENS,
    LlamaForCausalLM,
    expected,
    largest_error,
    make_tapped,
    mix,
)
from tiny_models import make_watchlist

from saeguard.integrations.vllm.tap import snapshot

WATCHLIST = make_watchlist([0, 1, 2])
TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""16 bits round the stream itself, in another order in a compiled graph than in a plain one."""

NUM_PADDED = 24
"""Rows that a graph was captured for."""

Forward = Callable[[torch.Tensor], Any]


class Captured:
    """A function in a CUDA graph; what is not on a GPU is called as it is.

    As vLLM does it: warmed up first, on a stream of its own, with one pool for all graphs.
    """

    pool: Any = None

    def __init__(self, function: Callable[..., Any], *example: torch.Tensor) -> None:
        self._function, self._graph = function, None
        self._inputs = [value.clone() for value in example]
        if not example[0].is_cuda:
            return
        Captured.pool = Captured.pool or torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                function(*[value.clone() for value in example])
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=Captured.pool):
            self._outputs = function(*self._inputs)

    def __call__(self, *args: torch.Tensor) -> Any:
        if self._graph is None:
            return self._function(*args)
        for mine, theirs in zip(self._inputs, args, strict=True):
            mine.copy_(theirs)
        self._graph.replay()
        return self._outputs


def full(model: LlamaForCausalLM, example: torch.Tensor, is_compiled: bool) -> Forward:
    return Captured(torch.compile(model, **COMPILE) if is_compiled else model, example)


def piecewise(model: LlamaForCausalLM, example: torch.Tensor, is_compiled: bool) -> Forward:
    pieces = [torch.compile(piece, **COMPILE) if is_compiled else piece for piece in model.pieces()]
    captured = [Captured(pieces[0], example)]
    hidden, residual = pieces[0](example.clone())
    for piece in pieces[1:]:
        captured.append(Captured(piece, mix(hidden), residual))
        if piece is not pieces[-1]:
            hidden, residual = piece(mix(hidden), residual.clone())

    def forward(hidden: torch.Tensor) -> Any:
        first, *others, last = captured
        hidden, residual = first(hidden)
        for piece in others:
            hidden, residual = piece(mix(hidden), residual)  # attention is in no graph
        return last(mix(hidden), residual)

    return forward


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("capture", [full, piecewise], ids=["full", "piecewise"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=["fp32", "bf16"])
def test_every_replay_runs_each_tap_once_with_the_scores_of_its_own_input(
    device: str, dtype: torch.dtype, capture: Callable[..., Forward], is_compiled: bool
):
    if device == "cpu" and is_compiled and (capture is piecewise or dtype is torch.bfloat16):
        pytest.skip("on a CPU no graph is captured, and compiling once more shows nothing new")
    torch._dynamo.reset()
    model, taps = make_tapped(WATCHLIST, device, dtype)
    assert all(tap.scores.isnan().all() for tap in taps), "the canary"
    generator = torch.Generator().manual_seed(5)
    forward = capture(model, torch.randn(NUM_PADDED, D_MODEL).to(device, dtype), is_compiled)
    for num_tokens in (NUM_PADDED, 7, 1, 20):
        hidden = torch.randn(num_tokens, D_MODEL, generator=generator).to(device, dtype)
        padding = torch.full((NUM_PADDED - num_tokens, D_MODEL), torch.nan)  # of an earlier step
        calls = [int(tap.calls) for tap in taps]
        forward(torch.cat([hidden, padding.to(device, dtype)]))
        assert [int(tap.calls) for tap in taps] == [each + 1 for each in calls]
        assert largest_error(taps, expected(WATCHLIST, hidden)) <= TOLERANCES[dtype]
    assert all(tap.scores[NUM_PADDED:].isnan().all() for tap in taps), "nobody's rows"


def test_rows_that_do_not_fit_are_left_out_and_no_snapshot_passes_over_it(device: str):
    model, taps = make_tapped(WATCHLIST, device, torch.float32)
    hidden = torch.randn(MAX_TOKENS + 3, D_MODEL).to(device)
    model(hidden)
    wanted = [scores[:MAX_TOKENS] for scores in expected(WATCHLIST, hidden)]
    assert largest_error(taps, wanted) <= 1e-4
    scores, _ = snapshot(taps, MAX_TOKENS)
    assert len(scores) == MAX_TOKENS
    with pytest.raises(RuntimeError, match=f"{MAX_TOKENS + 3} tokens.* {MAX_TOKENS} rows"):
        snapshot(taps, MAX_TOKENS + 3)
