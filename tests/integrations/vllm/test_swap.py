"""The worker's side of changing a watchlist, on real buffers and sockets, without an engine."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zmq
from tiny_models import D_MODEL, make_model, make_watchlist
from transformers import AutoModelForCausalLM

from saeguard.integrations.vllm.control import ControlListener
from saeguard.integrations.vllm.refill import overwrite
from saeguard.integrations.vllm.swap import WatchlistSwap
from saeguard.integrations.vllm.tap import Tap, layout_digest, make_taps
from saeguard.monitor import watchlist as wl
from saeguard.monitor.control import ControlChannel
from saeguard.monitor.messages import Swap, SwapStatus, decode
from saeguard.monitor.swap import Swapper, SwapResult

OLD = make_watchlist([0, 2])
NEW = make_watchlist([0, 2], num_features=9)
STREAM = np.random.default_rng(1).standard_normal((6, D_MODEL)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(make_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def taps(model: torch.nn.Module) -> list[Tap]:
    return make_taps(model, OLD.sites, max_tokens=32)


@pytest.fixture
def swap(taps: list[Tap], tmp_path: Path) -> WatchlistSwap:
    return make_swap(taps, tmp_path)


def make_swap(taps: list[Tap], tmp_path: Path, rank: int = 0, of: int = 1) -> WatchlistSwap:
    return WatchlistSwap(tmp_path / "w", OLD.digest, taps, rank, of)


def ask(swap: WatchlistSwap, watchlist: wl.Watchlist, go: bool) -> tuple[str, str]:
    status = swap.answer(Swap(watchlist.digest, go))
    assert status is not None
    return status.state, status.reason


def measured(taps: list[Tap]) -> np.ndarray:
    """What one step of the op leaves in the buffers, [tokens, features]."""
    for tap in taps:
        stream = torch.from_numpy(STREAM)
        torch.ops.saeguard.tap(
            stream, tap.rows, tap.bias, tap.threshold, tap.norm, tap.scores, tap.calls
        )
    return np.concatenate([tap.scores[: len(STREAM), : tap.width].numpy() for tap in taps], axis=1)


def expected(watchlist: wl.Watchlist) -> np.ndarray:
    return np.concatenate([wl.encode(STREAM, site) for site in watchlist.sites], axis=1)


def test_the_new_rows_are_in_the_same_buffers_once_the_engine_has_taken_them(
    swap: WatchlistSwap, taps: list[Tap], tmp_path: Path
):
    addresses = [tap.rows.data_ptr() for tap in taps]
    layout = layout_digest(taps)
    wl.save(NEW, tmp_path / "w")
    assert ask(swap, NEW, go=False) == ("ready", "")
    assert swap.take() is None
    assert ask(swap, NEW, go=True) == ("done", "")
    np.testing.assert_allclose(measured(taps), expected(OLD), atol=1e-5)
    taken = swap.take()
    assert taken is not None
    assert taken.watchlist == NEW.digest
    taps = overwrite(taps, taken.taps)
    np.testing.assert_allclose(measured(taps), expected(NEW), atol=1e-5)
    assert [tap.rows.data_ptr() for tap in taps] == addresses
    assert layout_digest(taps) == layout, "the compiled graph is the same"
    assert swap.take() is None
    assert ask(swap, NEW, go=True) == ("done", ""), "asked once more, there is nothing left to do"
    assert swap.take() is None


def test_fewer_layers_fit_and_more_come_back(swap: WatchlistSwap, taps: list[Tap], tmp_path: Path):
    for watchlist in (make_watchlist([2], num_features=3), NEW):
        wl.save(watchlist, tmp_path / "w")
        assert ask(swap, watchlist, go=True) == ("done", "")
        taken = swap.take()
        assert taken is not None
        taps = overwrite(taps, taken.taps)
        np.testing.assert_allclose(measured(taps), expected(watchlist), atol=1e-5)


def test_what_is_handed_over_last_is_what_the_engine_finds(swap: WatchlistSwap, tmp_path: Path):
    for watchlist in (NEW, OLD):
        wl.save(watchlist, tmp_path / "w")
        assert ask(swap, watchlist, go=True) == ("done", "")
    taken = swap.take()
    assert taken is not None
    assert taken.watchlist == OLD.digest


def with_wrong_golden_scores() -> wl.Watchlist:
    site = NEW.sites[1]
    return wl.build(D_MODEL, [NEW.sites[0], replace(site, golden_scores=site.golden_scores + 1)])


@pytest.mark.parametrize(
    ("watchlist", "reason"),
    [
        (make_watchlist([0, 1]), "needs layer 1, and the running graph taps only layer 0"),
        (make_watchlist([0, 2], num_features=65), "65 features at layer 0.*has room for 64"),
        (make_watchlist([0], d_model=32), "rows of 32 at layer 0, but this model has 64"),
        (with_wrong_golden_scores(), "golden self-test of layer 2 failed"),
    ],
    ids=["layer", "features", "d_model", "golden"],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(
    swap: WatchlistSwap, taps: list[Tap], tmp_path: Path, watchlist: wl.Watchlist, reason: str
):
    wl.save(watchlist, tmp_path / "w")
    state, said = ask(swap, watchlist, go=True)
    assert state == "refused"
    assert re.search(reason, said)
    assert swap.take() is None
    np.testing.assert_allclose(measured(taps), expected(OLD), atol=1e-5)
    wl.save(NEW, tmp_path / "w")
    assert ask(swap, NEW, go=True) == ("done", ""), "a good one is taken after that"


def cut_short(path: Path) -> None:
    wl.save(NEW, path)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "no such watchlist"),
        (lambda path: path.write_bytes(b"rows"), "cannot be read as a watchlist"),
        (cut_short, "cannot be read as a watchlist"),
        (lambda path: wl.save(OLD, path), "has changed again"),
    ],
    ids=["absent", "garbage", "cut", "other"],
)
def test_a_file_that_is_not_what_was_announced_is_refused(
    swap: WatchlistSwap, tmp_path: Path, write: Callable[[Path], None], reason: str
):
    write(tmp_path / "w")
    state, said = ask(swap, NEW, go=True)
    assert (state, swap.take()) == ("refused", None)
    assert reason in said


@pytest.fixture
def inbox(tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    socket = zmq.Context.instance().socket(zmq.PULL)
    socket.bind(f"ipc://{tmp_path}/inbox")
    yield socket
    socket.close()


@pytest.fixture
def listeners(taps: list[Tap], tmp_path: Path) -> Iterator[list[ControlListener]]:
    """Of the two workers of one engine."""
    endpoints = f"ipc://{tmp_path}/control", f"ipc://{tmp_path}/inbox"
    both = [ControlListener(*endpoints) for _ in range(2)]
    for rank, listener in enumerate(both):
        listener.start(make_swap(taps, tmp_path, rank, of=2).answer)
    yield both
    for listener in both:
        listener.close()


def outcome(swapper: Swapper, inbox: zmq.Socket[bytes], timeout_s: float = 20.0) -> SwapResult:
    """Play the monitor's loop until there is one."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        while inbox.poll(20):
            status, _ = decode(inbox.recv())
            assert isinstance(status, SwapStatus)
            swapper.hear(status)
        if (result := swapper.poll(time.monotonic())) is not None:
            return result
    raise AssertionError("no outcome")


def test_all_workers_change_and_one_that_refuses_keeps_all_from_it(
    listeners: list[ControlListener], inbox: zmq.Socket[bytes], tmp_path: Path
):
    channel = ControlChannel(f"ipc://{tmp_path}/control")
    swapper = Swapper(channel.send)
    wl.save(NEW, tmp_path / "w")
    swapper.offer(NEW.digest)
    assert outcome(swapper, inbox) == SwapResult(NEW.digest)
    (tmp_path / "w").unlink()
    swapper.offer(OLD.digest)
    assert "no such watchlist" in outcome(swapper, inbox).refusal
    swapper.offer(NEW.digest)
    assert outcome(swapper, inbox) == SwapResult(NEW.digest), "both still use it"
    channel.close()


def test_garbage_and_a_restart_of_the_monitor_are_survived(
    listeners: list[ControlListener], inbox: zmq.Socket[bytes], tmp_path: Path
):
    wl.save(NEW, tmp_path / "w")
    before = zmq.Context.instance().socket(zmq.PUB)
    before.bind(f"ipc://{tmp_path}/control")
    deadline_s = time.monotonic() + 20
    while not all(listener.num_unreadable for listener in listeners):
        assert time.monotonic() < deadline_s
        before.send(b"\x81\xa4what")
        before.send(b"")
        time.sleep(0.02)
    before.close()
    channel = ControlChannel(f"ipc://{tmp_path}/control")
    swapper = Swapper(channel.send)
    swapper.offer(NEW.digest)
    assert outcome(swapper, inbox) == SwapResult(NEW.digest)
    channel.close()


def test_a_stage_of_a_pipeline_takes_its_part_and_leaves_the_others_to_others(
    taps: list[Tap], tmp_path: Path
):
    """Both know what the whole pipeline taps, also the stage that taps nothing."""
    first, second = taps[:1], taps[1:]
    stages = [
        WatchlistSwap(tmp_path / "w", OLD.digest, mine, rank, 3, [tap.site for tap in others])
        for rank, (mine, others) in enumerate([(first, second), (second, first), ([], taps)])
    ]
    wl.save(NEW, tmp_path / "w")
    for stage, columns in zip(stages, ([*range(9)], [*range(9, 18)], []), strict=True):
        assert ask(stage, NEW, go=True) == ("done", "")
        taken = stage.take()
        assert taken is not None
        assert taken.columns == columns
    other = make_watchlist([0, 1])
    wl.save(other, tmp_path / "w")
    for stage in stages:
        state, reason = ask(stage, other, go=False)
        assert state == "refused"
        assert "needs layer 1, and the running graph taps only layer 0, layer 2" in reason
