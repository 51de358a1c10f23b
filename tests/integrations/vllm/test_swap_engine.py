"""A watchlist changes under a running engine: the graph stays, and no frame mixes old and new."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from engine_run import EngineRun, Inbox, run_engine
from tiny_models import hidden_states, make_model, make_watchlist

from saeguard.monitor import watchlist as wl
from saeguard.monitor.control import ControlChannel
from saeguard.monitor.messages import RequestEnd, RequestStart, SwapStatus, TapStatus
from saeguard.monitor.swap import Swapper, SwapResult

pytestmark = pytest.mark.server

OLD = make_watchlist([0, 2])
NEW = make_watchlist([0, 2], num_features=9)
TOO_LARGE = make_watchlist([0, 2], num_features=65)
PROMPTS = [list(range(10, 40)), list(range(50, 57)), [5, 9, 9, 8]]
MAX_TOKENS = 200
SETUPS = {
    "compiled": {},
    "piecewise": {"piecewise": True},
    "v2": {"v2": True, "engine": {"enforce_eager": True}},
    "tensor_parallel": {
        "engine": {"enforce_eager": True, "tensor_parallel_size": 2},
        "env": {"VLLM_CPU_OMP_THREADS_BIND": "0|1"},
    },
}


class Change:
    """The monitor's part: offers another watchlist while requests are running."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self.results: list[SwapResult] = []

    def __call__(self, inbox: Inbox) -> None:
        channel = ControlChannel(f"ipc://{self._work / 'run' / 'control'}")
        self._swapper = Swapper(channel.send)
        self._go_on(inbox, lambda: len(inbox.frames) > 5)
        self._offer(NEW, inbox)
        self._offer(TOO_LARGE, inbox)
        channel.close()

    def _offer(self, watchlist: wl.Watchlist, inbox: Inbox) -> None:
        wl.save(watchlist, self._work / "watch.safetensors")
        self._swapper.offer(watchlist.digest)
        num_results = len(self.results)
        self._go_on(inbox, lambda: len(self.results) > num_results)

    def _go_on(self, inbox: Inbox, until: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + 180
        while not until():
            assert time.monotonic() < deadline_s
            message = inbox.receive(20)
            if isinstance(message, SwapStatus):
                self._swapper.hear(message)
            if (result := self._swapper.poll(time.monotonic())) is not None:
                self.results.append(result)


@dataclass
class Changed:
    """What came out of it."""

    run: EngineRun
    results: list[SwapResult]
    is_compiled: bool

    @property
    def generated(self) -> dict[str, list]:
        return next(iter(self.run.by_model.values()))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=SETUPS)
def changed(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Changed:
    work = tmp_path_factory.mktemp("swap")
    setup = SETUPS[request.param]
    engine = {"enable_prefix_caching": False, **setup.get("engine", {})}
    change = Change(work)
    run = run_engine(
        work, model, OLD, PROMPTS, max_tokens=MAX_TOKENS, meanwhile=change,
        **{**setup, "engine": engine},
    )  # fmt: skip
    return Changed(run, change.results, is_compiled="enforce_eager" not in engine)


def test_it_is_changed_and_what_does_not_fit_is_refused(changed: Changed):
    done, refused = changed.results
    assert done == SwapResult(NEW.digest)
    assert refused.watchlist == TOO_LARGE.digest
    assert "65 features at layer 0" in refused.refusal
    workers = {m.rank for m in changed.run.messages if isinstance(m, TapStatus)}
    statuses = [m for m in changed.run.messages if isinstance(m, SwapStatus)]
    assert {m.rank for m in statuses if m.state == "done"} == workers


def test_every_rank_has_the_same_taps_and_the_first_sends_what_they_see(changed: Changed):
    run = changed.run
    said = re.findall(r"saeguard watches (.+)", run.log)
    num_workers = len({m.rank for m in run.messages if isinstance(m, TapStatus)})
    assert said == ["10 features at layer 0, layer 2"] * num_workers
    assert {frame.worker for frame, _ in run.frames} == {0}


def test_the_digest_changes_once_amid_running_requests(changed: Changed):
    run = changed.run
    digests = [frame.watchlist for frame, _ in run.frames]
    assert [digest for digest, _ in groupby(digests)] == [OLD.digest, NEW.digest]
    first = digests.index(NEW.digest)
    assert run.frames[first - 1][0].req_ids == run.frames[first][0].req_ids


def test_every_row_is_scored_by_the_watchlist_that_its_frame_names(changed: Changed, model: Path):
    run = changed.run
    outputs = {tuple(p): o for p, o in zip(PROMPTS, run.outputs, strict=True)}
    streams = {
        m.req_id: hidden_states(model, [*m.prompt_token_ids, *outputs[tuple(m.prompt_token_ids)]])
        for m in run.messages
        if isinstance(m, RequestStart)
    }
    worst, largest, flips = 0.0, 0.0, 0
    for frame, arrays in run.frames:
        watchlist = OLD if frame.watchlist == OLD.digest else NEW
        for req_id, start, end in zip(
            frame.req_ids, frame.row_starts[:-1], frame.row_starts[1:], strict=True
        ):
            positions = arrays.positions[start:end]
            expected = np.concatenate(
                [
                    wl.encode(streams[req_id][s.hook_point.layer][positions], s)
                    for s in watchlist.sites
                ],
                axis=1,
            )
            got = arrays.scores[start:end]
            worst = max(worst, float(np.abs(got - expected).max()))
            largest = max(largest, float(np.abs(expected).max()))
            flips += int(((got != 0) != (expected != 0)).sum())
    print(f"largest error {worst / largest:.1e}, {flips} flips in {len(run.frames)} frames")
    assert worst <= 1e-3 * largest
    assert flips == 0


def test_requests_that_were_running_are_accounted_for_to_the_last_row(
    changed: Changed,
):
    run = changed.run
    rows: dict[str, int] = {}
    for frame, _ in run.frames:
        for i, req_id in enumerate(frame.req_ids):
            rows[req_id] = rows.get(req_id, 0) + frame.row_starts[i + 1] - frame.row_starts[i]
    assert rows == {m.req_id: m.num_scheduled for m in run.messages if isinstance(m, RequestEnd)}


def test_nothing_is_compiled_again_and_the_taps_run_once_in_every_step(
    changed: Changed,
):
    run = changed.run
    graphs = changed.generated["graphs"]
    print(f"graphs after the start and after each round: {graphs}")
    assert (graphs[0] > 0) == changed.is_compiled
    assert set(graphs) == {graphs[0]}
    calls = np.array([frame.tap_calls for frame, _ in run.frames])
    assert set(np.diff(calls, axis=0).ravel().tolist()) == {1}
    assert all(m.alive for m in run.messages if isinstance(m, TapStatus))


def test_what_is_generated_is_the_same_before_and_after(changed: Changed):
    rounds = changed.generated["rounds"]
    assert len(rounds) >= 2
    assert all(outputs == rounds[0] for outputs in rounds)
