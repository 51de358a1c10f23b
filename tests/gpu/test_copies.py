"""What the engine's thread does after a step: snapshot, copy on another stream, hand over. It waits
for nothing, and each frame holds its own step although the next one overwrites the buffers.

Not proven here: that PyTorch's pinned memory is never allocated anew under load, which costs time
but is right (the first copies of each size do it, and those are kept).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from tapped_model import D_MODEL, expected, make_tapped
from tiny_models import make_watchlist

from saeguard.integrations.vllm.tap import snapshot
from saeguard.integrations.vllm.to_host import ToHost

WATCHLIST = make_watchlist([0, 2])
NUM_STEPS = 40
NUM_TOKENS = 16

Handed = tuple[int, list[torch.Tensor], Callable[[], None]]


@contextmanager
def nothing_synchronises(device: str) -> Iterator[None]:
    """On this thread and any other, meanwhile: PyTorch raises where it would wait for the GPU."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Receiver:
    """Waits for copies on a thread of its own, as the outbox does."""

    def __init__(self) -> None:
        self.received: dict[int, list[torch.Tensor]] = {}
        self.queue: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (handed := self.queue.get()) is not None:
            step, host, wait = handed
            wait()
            self.received[step] = [tensor.clone() for tensor in host]

    def close(self) -> None:
        self.queue.put(None)
        self._thread.join(60)
        assert not self._thread.is_alive()


def test_each_step_arrives_with_its_own_scores_though_nobody_waits_for_it(device: str):
    model, taps = make_tapped(WATCHLIST, device, torch.float32)
    inputs = torch.randn(NUM_STEPS, NUM_TOKENS, D_MODEL, generator=torch.Generator().manual_seed(2))
    inputs = inputs.to(device)
    model(inputs[0].clone())  # allocates what it needs
    to_host, receiver = ToHost(torch.device(device)), Receiver()
    before = int(taps[0].calls)
    with nothing_synchronises(device):
        for step in range(NUM_STEPS):
            model(inputs[step].clone())
            scores, calls = snapshot(taps, NUM_TOKENS)
            receiver.queue.put((step, *to_host([scores, calls])))
            del scores, calls  # whose memory the next step may get
    receiver.close()
    for step, (scores, calls) in receiver.received.items():
        wanted = torch.cat(expected(WATCHLIST, inputs[step]), dim=1)
        assert (scores - wanted).abs().max() <= 1e-4 * wanted.abs().max()
        assert calls.tolist() == [before + step + 1] * len(taps)
    assert sorted(receiver.received) == list(range(NUM_STEPS))


@pytest.mark.gpu
def test_a_copy_is_handed_over_before_the_gpu_has_come_to_it():
    to_host = ToHost(torch.device("cuda"))
    value = torch.zeros(1 << 20, device="cuda")
    for _ in range(2):  # the second time, pinned memory is there
        _, wait = to_host([value])
        wait()
    with nothing_synchronises("cuda"):
        torch.cuda._sleep(1_000_000_000)  # cycles, about half a second
        value += 1
        (host,), wait = to_host([value])
        assert not torch.cuda.current_stream().query(), "somebody waited"
    wait()
    assert host.is_pinned()
    assert host.eq(1).all()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_whoever_waits_occupies_no_memory_of_another_gpu():
    """A thread that has chosen no device would get a context on the first one."""
    free_before, _ = torch.cuda.mem_get_info(0)
    with torch.cuda.device(1):
        _, wait = ToHost(torch.device("cuda", 1))([torch.zeros(8, device="cuda:1")])
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(60)
    free_after, _ = torch.cuda.mem_get_info(0)
    assert free_before - free_after < 2**20
