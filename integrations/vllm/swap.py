"""Another watchlist for taps that are running, without a restart and without recompiling.

The control thread does the work: it loads the file, puts the rows on the device and tests them
there. The engine's thread finds the result between two steps and copies it over the old rows, on
the stream of the forward pass: steps before it used the old watchlist, steps after it use the new
one, and nobody waits.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from vllm.logger import init_logger

from saeguard.integrations.vllm.refill import refill
from saeguard.integrations.vllm.self_test import self_test
from saeguard.integrations.vllm.tap import Tap, columns_of
from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.messages import Control, Swap, SwapState, SwapStatus
from saeguard.monitor.watchlist import Site

logger = init_logger("vllm.saeguard.swap")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A watchlist on the device, tested, beside the one that is in use."""

    watchlist: str
    taps: list[Tap]
    columns: list[int]
    """Which of its columns the taps' scores are."""


class WatchlistSwap:
    """Prepares what the monitor asks for (control thread), and hands it over (engine's thread)."""

    def __init__(
        self,
        path: Path,
        watchlist: str,
        taps: Sequence[Tap],
        rank: int,
        num_workers: int,
        elsewhere: Sequence[Site] = (),
    ) -> None:
        """
        Args:
            path: where a watchlist is read from.
            watchlist: digest of the one in use.
            taps: of this worker, which has none where other stages of a pipeline have all of them.
            rank: of this worker, for the monitor.
            num_workers: of its engine.
            elsewhere: what other stages tap.
        """
        self._path = path
        self._watchlist = watchlist  # the one in use, or handed over
        self._taps = taps
        self._rank = rank
        self._num_workers = num_workers
        self._elsewhere = elsewhere
        self._prepared: Prepared | None = None
        self._handed_over: deque[Prepared] = deque(maxlen=1)  # the newest replaces what waits
        device = taps[0].rows.device if taps else None
        self._stream = torch.cuda.Stream(device) if device and device.type == "cuda" else None

    def take(self) -> Prepared | None:
        """What the next step is to use, if anything has changed. Costs nothing otherwise."""
        return self._handed_over.pop() if self._handed_over else None

    def answer(self, message: Control) -> SwapStatus | None:
        """Do what the monitor asks, and say how far this worker is."""
        if not isinstance(message, Swap):
            return None
        state: SwapState
        try:
            state, reason = self._advance(message), ""
        except Exception as error:  # the file, the device, or a fault of ours: all is as before
            logger.error("saeguard goes on with the watchlist in use: %s", error)
            state, reason = "refused", str(error) or repr(error)
        return SwapStatus(self._rank, self._num_workers, message.watchlist, state, reason)

    def _advance(self, message: Swap) -> SwapState:
        if message.watchlist == self._watchlist:
            self._prepared = None
            return "done"
        if self._prepared is None or self._prepared.watchlist != message.watchlist:
            self._prepared = self._prepare(message.watchlist)
        if not message.go:
            return "ready"
        self._handed_over.append(self._prepared)
        self._watchlist, self._prepared = message.watchlist, None
        logger.info("saeguard changes to watchlist %.12s", self._watchlist)
        return "done"

    def _prepare(self, digest: str) -> Prepared:
        watchlist = wl.load(self._path)
        if watchlist.digest != digest:
            raise UnsupportedError(f"{self._path} has changed again: it holds another watchlist")
        with self._aside():
            taps = refill(self._taps, watchlist, self._elsewhere)
            self_test(taps)
        return Prepared(digest, taps, columns_of(taps, watchlist))

    def _aside(self) -> AbstractContextManager[object]:
        """Where the device is to work: beside the engine's stream. The self-test waits for it."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)
