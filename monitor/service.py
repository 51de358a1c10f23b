"""The monitor at work: one thread reads the inbox and decides. Writers, senders and the watcher of
files have their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import msgspec

from saeguard.monitor.activations import Activations
from saeguard.monitor.carry_over import lookback
from saeguard.monitor.columns import order_of
from saeguard.monitor.config import Config
from saeguard.monitor.control import ControlChannel
from saeguard.monitor.destinations import load_destinations
from saeguard.monitor.detector import Detection, Detector
from saeguard.monitor.histograms import WITHIN_S, Distribution, Histogram
from saeguard.monitor.inbox import Inbox
from saeguard.monitor.live_heads import LiveHeads
from saeguard.monitor.logging import logger
from saeguard.monitor.merge import Step, merged
from saeguard.monitor.messages import (
    ENGINE_CORE,
    Frame,
    MoreInput,
    PrefixUpdate,
    RequestEnd,
    RequestStart,
    Running,
    SwapStatus,
    TapStatus,
    decode,
)
from saeguard.monitor.metrics import start_metrics
from saeguard.monitor.opt_outs import opt_outs
from saeguard.monitor.parts import PartJoiner
from saeguard.monitor.reload import Refusal, Reloader
from saeguard.monitor.reporting import Reporter
from saeguard.monitor.rulebook import Rulebook
from saeguard.monitor.secrets import read_secret
from saeguard.monitor.senders import Senders
from saeguard.monitor.signs_of_life import SignsOfLife
from saeguard.monitor.stops import Stops
from saeguard.monitor.store import Store
from saeguard.monitor.tokens import TokenTexts
from saeguard.monitor.watchlist import Watchlist
from saeguard.monitor.workers import Workers

_POLL_S = 0.05
_GATHER_S = 0.015
"""How long the first message waits for company: waking for each would cost the engine's cores more
than the evaluation does. Not with rules that stop requests: there every token counts."""
_QUIET_TURNS = 6
"""At shutdown: the inbox counts as drained when so many turns found nothing, of `_POLL_S` each. Not
when so much time has passed: where others use the cores, nobody may have looked meanwhile.
"""
_DRAIN_S = 5.0
_FLUSH_S = 2.0
"""How long the disk may take at the end: whoever ends us does not wait for ever."""
_DELIVER_S = 4.0
"""And the destinations, all together."""

log = logger("saeguard.monitor")
T = TypeVar("T")
R = TypeVar("R")


class Service:
    """Everything that lives as long as the monitor process."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        """
        Args:
            run_dir: where its sockets are made.

        Raises:
            ConfigError, WatchlistError, StoreError: the monitor cannot do its work as configured.
        """
        self._control = ControlChannel(f"ipc://{run_dir / 'control'}")
        self._reloader = Reloader(config, self._control.send, self._expect)
        self._book = self._reloader.book
        watchlist = self._book.watchlist
        self._activations = (
            Activations(watchlist.columns, watchlist.head_rows) if config.metrics else None
        )
        self._evaluation = Histogram(WITHIN_S)
        self._detector = Detector(
            self._book.engine,
            watchlist.digest,
            len(watchlist.columns),
            config.record_tokens,
            config.prefix_scores_mib << 20,
            self._activations,
            _live_heads(watchlist),
        )
        captured, hash_key = config.capture_text != "off", None
        if config.capture_text == "hash":
            hash_key = read_secret(None, config.hash_key_file)
        self._texts = lru_cache(lambda file: TokenTexts(file, captured, config.phases, hash_key))
        self._joiner = PartJoiner()
        self._num_unsent = 0  # by EngineCore
        self._num_taken = 0  # messages, in the last turn
        self._allows_opt_out = config.allow_opt_out
        is_needed = config.fail == "closed"
        self._signs_of_life = SignsOfLife(self._control.send) if is_needed else None
        self._began_ns = time.monotonic_ns()
        destinations = load_destinations(config)
        self._store = Store(
            config.store, max_bytes=config.store_mib << 20, destinations=destinations
        )
        self._reporter = Reporter(self._store, config.record_share)
        self._reporter.introduce(self._book)
        self._stops = Stops(self._control.send)
        self._senders = Senders(self._store, destinations)
        self._inbox = Inbox(f"ipc://{run_dir / 'inbox'}")
        self._metrics = start_metrics(config, self.totals, self.distributions)
        log.info(
            "watching",
            rules=len(self._book.ruleset.rules),
            features=list(watchlist.features),
            kernels=self._book.engine.kernels,
        )

    def expect_model(self, tokenizer_file: str) -> None:
        """Read what is needed of a model's tokenizer now, not at its first request."""
        self._texts(tokenizer_file)

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Serve until told to stop, then take in what is still on its way."""
        while not should_stop():
            self._turn()
        deadline_s, num_quiet = time.monotonic() + _DRAIN_S, 0
        while time.monotonic() < deadline_s and num_quiet < _QUIET_TURNS:
            num_quiet = 0 if self._turn() else num_quiet + 1

    def close(self) -> None:
        """Make everything durable, and deliver what can be delivered in time."""
        self._reloader.close()
        self._guarded(self._detector.cut_off, time.time_ns())
        self._guarded(self._finish_requests, float("inf"))  # no row can come any more
        self._store.flush(_FLUSH_S)
        self._senders.drain(_DELIVER_S)
        for metrics in self._metrics:
            metrics.close()
        self._store.close(_FLUSH_S)
        self._inbox.close()
        self._control.close()

    def totals(self) -> Mapping[str, int]:
        """Counters and gauges by name, for metrics."""
        ruleset = self._book.ruleset
        live = {
            f"ruleset/info/{ruleset.sha256}/{ruleset.version}": 1,
            "correlations/evicted": self._book.decider.num_evicted,
            "requests/live": self._detector.num_live,
            "frames/dropped": self._workers.num_dropped_frames,
            "messages/dropped": self._num_unsent,
            "rows/nonfinite": self._detector.num_nonfinite,
            "rows/orphaned": self._detector.num_orphans,
            "rows/phase_unsure": self._detector.num_phase_unsure,
            "rows/unevaluated": self._detector.num_unevaluated,
            "queue/depth/inbox": self._num_taken,
            "queue/depth/store": self._store.num_waiting,
            "taps/alive": int(self._workers.are_all_alive and not self._reloader.is_blind),
            **self._store.totals(),
            **self._senders.totals(),
        }
        return {**self._reporter.totals, **live}

    def distributions(self) -> Mapping[str, Distribution]:
        """Histograms by name, for metrics."""
        features = self._activations.read() if self._activations else {}
        return {
            "evaluation/duration_s": self._evaluation.read(),
            "alert/latency_s": self._store.latency.read(),
            **self._senders.distributions(),
            **{f"feature/score/{name}": scores for name, scores in features.items()},
        }

    def _turn(self) -> bool:
        """Take in one batch of messages; False when there was none."""
        now_s = time.monotonic()
        self._guarded(self._reload, now_s)
        self._guarded(self._stops.poll, now_s)
        if self._signs_of_life is not None:
            self._signs_of_life.poll(now_s, self._blindness)
        busy, self._num_taken = self._inbox.wait(_POLL_S), 0
        if busy:
            if not self._book.can_stop:
                time.sleep(_GATHER_S)
            messages = self._inbox.take()
            self._num_taken = len(messages)
            # While messages are queued up, nobody can be said to have waited too long.
            now_s = time.monotonic() if self._inbox.is_empty else float("-inf")
            steps = [step for data in messages for step in self._guarded(self._accept, data) or ()]
            self._observe_all(self._guarded(_merge, steps) or steps)
        self._observe_all(self._guarded(self._joiner.give_up, now_s) or [])
        self._guarded(self._finish_requests, now_s)
        return busy

    def _guarded(self, act: Callable[[T], R], value: T) -> R | None:
        """One message that we cannot cope with must not end the monitor; it is counted."""
        try:
            return act(value)
        except Exception as error:
            self._reporter.count({"messages/failed": 1})
            log.error("failed", what=act.__name__, error=repr(error))
            return None

    def _observe_all(self, steps: list[Step]) -> None:
        started_s = time.perf_counter()
        for step in steps:
            self._guarded(self._observe, step)
        if steps:
            self._evaluation.add(time.perf_counter() - started_s)

    def _observe(self, step: Step) -> None:
        self._decide(self._detector.observe(*step, time.monotonic()))
        if not self._workers.is_alive(step[0].worker):
            self._lose(step[0].worker, "the taps did not run in a step", is_silent=False)

    def _accept(self, data: bytes) -> list[Step]:
        """Act on a message at once, or return the steps that are whole with it."""
        try:
            message, arrays = decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            self._reporter.count({"messages/unreadable": 1})
            log.error("unreadable_message", error=str(error))
            return []
        match message:
            case Frame() if arrays is not None:
                self._workers.sent(message)
                return self._joiner.add(message, arrays, time.monotonic())
            case RequestStart():
                self._num_unsent = message.num_dropped
                if message.has_ended and self._reporter.has_finished(message.req_id):
                    self._detector.forget_end(message.req_id)
                elif not self._detector.knows(message.req_id):
                    self._start(message)
            case PrefixUpdate():
                self._detector.update_prefixes(message)
            case MoreInput():
                self._detector.extend(message)
            case RequestEnd():
                self._num_unsent = message.num_dropped
                self._stops.ended(message.req_id)
                self._decide(self._detector.end(message, time.monotonic()))
            case Running():
                self._num_unsent = message.num_dropped
                self._detector.reap(message, time.monotonic())
            case TapStatus():
                self._hear(message)
            case SwapStatus():
                self._reloader.hear(message)
        return []

    def _start(self, message: RequestStart) -> None:
        if message.clock_ns < self._began_ns:
            self._reporter.count({"requests/unattended": 1})
        wanted = opt_outs(message.opt_out, self._book.ruleset, self._allows_opt_out)
        if wanted and not message.num_before:  # else the monitor before this one has counted it
            self._reporter.opted_out(message, wanted)
        texts = self._texts(message.tokenizer_file)
        self._decide(self._detector.start(message, texts, wanted))

    def _hear(self, status: TapStatus) -> None:
        """A worker has started, or cannot be relied on."""
        if status.alive:
            self._workers.started(status.rank)
            self._joiner.forget_worker(status.rank)
            self._reloader.worker_started(status.rank)
        else:
            self._lose(status.rank, status.reason, is_silent=True)

    def _decide(self, detections: list[Detection]) -> None:
        for detection in detections:
            self._guarded(self._decide_on, detection)  # one that fails must not cost the others

    def _decide_on(self, detection: Detection) -> None:
        for decision in self._book.decide(detection):
            alert = self._reporter.decided(decision, detection, self._book)
            if alert is not None and alert.action_outcome == "requested":
                self._stops.ask(detection.request.start.req_id, alert, time.monotonic())

    def _finish_requests(self, now_s: float) -> None:
        for request in self._detector.finished(now_s):
            self._book.decider.finish(request.start.req_id)
            self._reporter.finished(request, self._book)
        for end in self._detector.take_unannounced():
            self._reporter.unannounced(end)
        self._reporter.tell_of_store(self._book, time.monotonic())
        self._reporter.save_totals()

    def _reload(self, now_s: float) -> None:
        match self._reloader.poll(now_s):
            case Rulebook() as book:
                try:
                    self._adopt(book)
                except Exception as error:  # a fault of ours, and no reason to change half
                    self._reporter.refused(f"they could not be taken up: {error!r}", self._book)
            case Refusal(reason, is_blinding=True):
                self._reporter.blinded(reason, self._book)
            case Refusal(reason):
                self._reporter.refused(reason, self._book)

    def _adopt(self, book: Rulebook) -> None:
        """Change the rules between two steps, under live requests as well."""
        started_s, before = time.monotonic(), self._book.watchlist
        is_same = book.watchlist.digest == before.digest
        order = None if is_same else order_of(book.watchlist.identities, before.identities)
        heads = _live_heads(book.watchlist)
        self._detector.adopt(
            book.engine, lookback(book.ruleset), book.watchlist.digest, order, heads
        )
        if self._activations is not None and order is not None:
            self._activations.adopt(book.watchlist.columns, order, book.watchlist.head_rows)
        book.decider.carry_over(self._book.decider)
        self._book = book
        self._reporter.introduce(book)
        self._reporter.count({"rules/reload/ok": 1})
        log.info(
            "rules_reloaded",
            sha256=book.ruleset.sha256,
            rules=len(book.ruleset.rules),
            features=list(book.watchlist.features),
            live_requests=self._detector.num_live,
            took_ms=round(1000 * (time.monotonic() - started_s), 1),
        )

    def _expect(self, watchlist: Watchlist) -> None:
        """Workers are about to send scores of another watchlist: take what the rules know of it."""
        known = self._book.watchlist.identities
        self._detector.accept_watchlist(watchlist.digest, order_of(known, watchlist.identities))

    def _lose(self, worker: int, reason: str, is_silent: bool) -> None:
        """It cannot be relied on any more."""
        if self._workers.lost(worker, reason, is_silent):
            name = f"worker {worker}" if worker >= 0 else f"engine {ENGINE_CORE - worker}"
            self._reporter.blinded(f"{name}: {reason}", self._book)

    @property
    def _workers(self) -> Workers:
        return self._detector.workers

    @property
    def _blindness(self) -> str:
        """Why nothing can be relied on; empty while all is well."""
        if self._reloader.is_blind:
            return "the server watches with another watchlist"
        return "; ".join(dict.fromkeys(self._workers.reasons.values()))


def _live_heads(watchlist: Watchlist) -> LiveHeads:
    return LiveHeads(watchlist.heads, watchlist.columns, watchlist.identities)


def _merge(steps: list[Step]) -> list[Step]:
    return list(merged(steps))
