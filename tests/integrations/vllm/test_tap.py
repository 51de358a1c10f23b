"""The tap on a real engine: it runs in every step, its scores are right, and it changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_run import EngineRun, run_engine
from tiny_models import VOCAB, hidden_states, make_model, make_watchlist

from saeguard.monitor import watchlist as wl
from saeguard.monitor.messages import RequestEnd, RequestStart, TapStatus

pytestmark = [pytest.mark.server, pytest.mark.offline]

LAYERS = [0, 2]
WATCHLIST = make_watchlist(LAYERS)
PROMPTS = [list(range(10, 40)), list(range(50, 57)), [5, 9, 9, 8]]
MAX_TOKENS = 8
V2_TOKENS = 3


def many_prompts(num_prompts: int = 200) -> list[list[int]]:
    """Of all lengths, so that steps mix prompts and answers."""
    rng = np.random.default_rng(11)
    return [rng.integers(4, VOCAB, rng.integers(2, 40)).tolist() for _ in range(num_prompts)]


MANY_PROMPTS = many_prompts()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def watched(model: Path, tmp_path_factory: pytest.TempPathFactory) -> EngineRun:
    """vLLM's default on this machine: torch.compile on."""
    return run_engine(
        tmp_path_factory.mktemp("run"), model, WATCHLIST, MANY_PROMPTS, max_tokens=MAX_TOKENS
    )  # fmt: skip


@pytest.fixture(scope="module")
def piecewise(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineRun, EngineRun]:
    """Piecewise graphs, as on a GPU: first unconfigured, then watched, with one compile cache."""
    work = tmp_path_factory.mktemp("piecewise")
    plain, watched = (
        run_engine(work, model, each, PROMPTS, max_tokens=MAX_TOKENS, piecewise=True)
        for each in (None, WATCHLIST)
    )
    return plain, watched


@pytest.fixture(scope="module")
def on_v2(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EngineRun, EngineRun]:
    """Model runner V2, compiled in pieces, too: unconfigured and watched. Its kernels run in
    Triton's interpreter, so answers are short.
    """
    work = tmp_path_factory.mktemp("v2")
    plain, watched = (
        run_engine(work, model, each, MANY_PROMPTS, max_tokens=V2_TOKENS, piecewise=True, v2=True)
        for each in (None, WATCHLIST)
    )
    return plain, watched


def largest_error(
    run: EngineRun, model: Path, watchlist: wl.Watchlist, prompts: list[list[int]] = PROMPTS
) -> tuple[float, int]:
    """Against Hugging Face and the float64 formula: (relative to the largest score, gate flips)."""
    worst, flips = 0.0, 0
    outputs = {tuple(p): o for p, o in zip(prompts, run.outputs, strict=True)}
    starts = [m for m in run.messages if isinstance(m, RequestStart)]
    assert len(starts) == len(prompts)
    for start in starts:
        token_ids = [*start.prompt_token_ids, *outputs[tuple(start.prompt_token_ids)]]
        rows = run.scores_of(start.req_id)
        assert sorted(rows) == list(range(len(token_ids) - 1)), "all rows but the last token's"
        got = np.stack([rows[position] for position in sorted(rows)])
        streams = hidden_states(model, token_ids)
        expected = np.concatenate(
            [wl.encode(streams[site.hook_point.layer], site) for site in watchlist.sites], axis=1
        )[:-1]
        worst = max(worst, float(np.abs(got - expected).max() / np.abs(expected).max()))
        flips += int(((got != 0) != (expected != 0)).sum())
    return worst, flips


def calls_per_step(run: EngineRun) -> set[int]:
    """By how much each tap's counter on the device rose from step to step."""
    calls = np.array([frame.tap_calls for frame, _ in run.frames])
    return set(np.diff(calls, axis=0).ravel().tolist())


def test_the_op_runs_once_per_layer_in_every_step_decode_included(watched: EngineRun):
    assert len(watched.frames) >= MAX_TOKENS
    assert all(len(frame.tap_calls) == len(LAYERS) for frame, _ in watched.frames)
    assert calls_per_step(watched) == {1}


def test_scores_equal_hugging_face_without_a_flipped_gate(watched: EngineRun, model: Path):
    error, flips = largest_error(watched, model, WATCHLIST, MANY_PROMPTS)
    assert error <= 1e-3
    assert flips == 0


def test_greedy_outputs_are_the_same_with_and_without(
    watched: EngineRun, model: Path, tmp_path: Path
):
    plain = run_engine(tmp_path, model, None, MANY_PROMPTS, max_tokens=MAX_TOKENS)
    assert plain.outputs == watched.outputs
    assert plain.messages == [] == plain.frames, "an unconfigured engine says nothing"


def test_every_row_that_was_scheduled_is_in_a_frame_exactly_once(watched: EngineRun):
    ends = {m.req_id: m for m in watched.messages if isinstance(m, RequestEnd)}
    rows: dict[str, int] = {}
    for frame, _ in watched.frames:
        for i, req_id in enumerate(frame.req_ids):
            rows[req_id] = rows.get(req_id, 0) + frame.row_starts[i + 1] - frame.row_starts[i]
    assert rows == {req_id: end.num_scheduled for req_id, end in ends.items()}


def test_the_worker_reports_that_its_taps_are_in_the_graph(watched: EngineRun):
    assert [m.alive for m in watched.messages if isinstance(m, TapStatus)] == [True]


def test_a_cache_compiled_without_taps_does_not_silence_them(
    piecewise: tuple[EngineRun, EngineRun], model: Path
):
    plain, watched = piecewise
    assert plain.frames == []
    assert calls_per_step(watched) == {1}
    assert largest_error(watched, model, WATCHLIST) <= (1e-3, 0)
    assert watched.outputs == plain.outputs


def test_model_runner_v2_gives_the_same_rows_and_outputs(
    on_v2: tuple[EngineRun, EngineRun], watched: EngineRun, model: Path
):
    plain, on_v2_watched = on_v2
    assert "V2 Model Runner" in on_v2_watched.log
    assert plain.frames == []
    assert calls_per_step(on_v2_watched) == {1}
    assert largest_error(on_v2_watched, model, WATCHLIST, MANY_PROMPTS) <= (1e-3, 0)
    assert on_v2_watched.outputs == plain.outputs
    assert on_v2_watched.outputs == [output[:V2_TOKENS] for output in watched.outputs]
