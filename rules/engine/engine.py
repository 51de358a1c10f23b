"""Runs the rules over the scores of many requests at once, as they come.

Semantics, written down once:

* A *phase run* is a maximal stretch of a request's tokens in one phase. Windows, averages, `for`
  and `keep_firing_for` live within one run; a new run starts from nothing. Sequences span the runs.
* A rule looks only at runs of phases in its scope, of requests that its scope admits.
* NaN means "not observed", never zero: see `aggregates.py` and, for whole rules, `program.py`. A
  token that is not passed at all does not exist for the engine; pass NaN to hold its place.
* A rule *matches* on the token on which it begins to fire; while it goes on, that is one match.
* Matches beyond a rule's limit per request are returned too, marked `limited`.
* How a stream is cut into calls of `observe` changes nothing.
* Correlations are not looked at: they are about matches, not tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saeguard.rules.engine import kernels
from saeguard.rules.engine.aggregates import Indices, Scores
from saeguard.rules.engine.blocks import Block, extended
from saeguard.rules.engine.program import Hit, Program
from saeguard.rules.engine.stretches import Stretches, cut, rows_of, turns
from saeguard.rules.matches import Match, RuleCount
from saeguard.rules.model import Correlation, RuleSet
from saeguard.rules.phases import Phase
from saeguard.rules.scope import RequestContext

IntArray = npt.NDArray[np.integer]
_NO_PHASE = -1
_FEW_SLOTS = 64


@dataclass(slots=True)
class _Request:
    slot: int
    matches: dict[int, int] = field(default_factory=dict)  # index of the rule -> matches so far


class Engine:
    """Evaluates a rule set. Not thread-safe; it never raises on the values of scores."""

    def __init__(
        self,
        ruleset: RuleSet,
        columns: Sequence[str],
        max_requests: int = 4096,
        tells_why: bool = True,
    ) -> None:
        """
        Args:
            ruleset: the rules.
            columns: name of the feature in each column of the scores.
            max_requests: live requests; `start` refuses more and counts them in `num_refused`.
                Memory is taken as they come.
            tells_why: without it matches have no readings, and of the evidence only what `for`
                counted; where many copies of a rule run, telling is most of the work.

        Raises:
            ValueError: a rule reads a feature that no column has.
        """
        if missing := [name for name in ruleset.used_features() if name not in columns]:
            raise ValueError(f"no scores for the feature(s) {', '.join(missing)}")
        self.num_refused = 0
        """Calls of `start` that found the table full."""
        self.num_ignored_tokens = 0
        """Tokens of requests that were never started, or refused."""
        self.kernels = kernels.in_use.name
        """What runs its loops: `compiled` or `numpy`."""
        self._rules = ruleset.rules
        self._num_columns = len(columns)
        self._about_tokens = [
            index
            for index, rule in enumerate(ruleset.rules)
            if not isinstance(rule.detection, Correlation)
        ]
        self._program = Program(
            [self._rules[index] for index in self._about_tokens], columns, tells_why
        )
        self._is_watched = np.zeros(len(Phase), np.bool_)
        for rule in ruleset.rules:
            self._is_watched[list(rule.phases)] = True
        self._requests: dict[str, _Request] = {}
        self._max_requests = max_requests
        self._free_slots: list[int] = []
        self._num_tokens = np.empty(0, np.int64)  # of each slot's request so far
        self._run_begin = np.empty(0, np.int64)  # the token with which its phase run began
        self._phase = np.empty(0, np.int64)
        self._last_keys: Sequence[str] = ()
        self._last_slots = np.empty(0, np.int64)
        _keep_freed_memory()

    def start(self, key: str, context: RequestContext) -> None:
        """Begin to follow a request. A key that is already followed stays as it is."""
        if key in self._requests:
            return
        if not self._free_slots and len(self._phase) < self._max_requests:
            self._grow()
        if not self._free_slots:
            self.num_refused += 1
            return
        slot = self._free_slots.pop()
        self._requests[key] = _Request(slot)
        self._num_tokens[slot] = 0
        self._phase[slot] = _NO_PHASE
        self._program.admit(slot, context)
        self._last_keys = ()

    def _grow(self) -> None:
        """Make room for as many requests again."""
        before = len(self._phase)
        after = min(max(_FEW_SLOTS, 2 * before), self._max_requests)
        self._num_tokens = extended(self._num_tokens, after)
        self._run_begin = extended(self._run_begin, after)
        self._phase = extended(self._phase, after)
        self._program.grow(after)
        self._free_slots = list(reversed(range(before, after)))

    def resume(self, key: str, matches: Mapping[str, int]) -> None:
        """Go on with a request that was under other rules, after its tokens were played again.

        What matched in them is forgotten. A rule that holds now and is not among `matches` matches
        on the next token on which it holds.

        Args:
            matches: id of a rule -> how often it counts as having matched.
        """
        request = self._requests.get(key)
        if request is None:
            return
        request.matches = {
            index: matches[rule.id] for index, rule in enumerate(self._rules) if rule.id in matches
        }
        rules = [n for n, index in enumerate(self._about_tokens) if index not in request.matches]
        self._program.rearm(request.slot, rules)

    def finish(self, key: str) -> list[RuleCount]:
        """Forget a request; what matched in it. Nothing for an unknown key."""
        request = self._requests.pop(key, None)
        if request is None:
            return []
        self._free_slots.append(request.slot)
        self._last_keys = ()
        counts = []
        for index, matches in sorted(request.matches.items()):
            rule = self._rules[index]
            emitted = min(matches, rule.max_per_request or matches)
            counts.append(RuleCount(rule, matches, emitted, matches - emitted))
        return counts

    def observe(
        self,
        keys: Sequence[str],
        row_starts: IntArray,
        scores: Scores,
        positions: IntArray,
        phases: npt.NDArray[np.uint8],
    ) -> list[Match]:
        """Take the next tokens of some requests.

        Args:
            keys: the requests.
            row_starts: [keys + 1]; request i has the rows `row_starts[i]` to `row_starts[i + 1]`.
            scores: [tokens, columns], NaN where not observed.
            positions: [tokens], the token's place in its request.
            phases: [tokens], codes of `Phase`.

        Returns:
            What began to fire, ordered by row and then as the rules are ordered.
        """
        if len(row_starts) != len(keys) + 1 or row_starts[0] != 0:
            raise ValueError("row_starts must begin at 0 and have one entry more than keys")
        if not len(scores) == len(positions) == len(phases) == row_starts[-1]:
            raise ValueError("scores, positions and phases must have row_starts[-1] rows each")
        if np.shape(scores)[1:] != (self._num_columns,):
            raise ValueError(f"scores must have {self._num_columns} columns: {np.shape(scores)}")
        scores = np.ascontiguousarray(scores, np.float32)
        stretches = cut(self._slots_of(keys), np.asarray(row_starts), phases)
        is_known = stretches.slots >= 0
        if not is_known.all():
            self.num_ignored_tokens += int(stretches.lengths[~is_known].sum())
            stretches = stretches.take(is_known)
        hits: list[tuple[int, int, Hit]] = []
        with np.errstate(all="ignore"):
            for turn in turns(stretches):
                hits += self._run(turn, scores, positions)
        return self._matches(hits, keys, np.asarray(row_starts), positions, phases)

    def _slots_of(self, keys: Sequence[str]) -> Indices:
        """-1 for those that are not followed. While decoding, the keys are those of last time."""
        if self._last_keys != keys:
            get = self._requests.get
            slots = [-1 if (request := get(key)) is None else request.slot for key in keys]
            self._last_keys, self._last_slots = list(keys), np.array(slots, np.int64)
        return self._last_slots

    def _run(
        self, stretches: Stretches, scores: Scores, positions: IntArray
    ) -> Iterator[tuple[int, int, Hit]]:
        """Go on with requests by a stretch each: (row, index of the rule, hit)."""
        slots = stretches.slots
        first = self._num_tokens[slots]
        self._num_tokens[slots] += stretches.lengths
        is_fresh = stretches.phases != self._phase[slots]
        if is_fresh.any():
            fresh = slots[is_fresh]
            self._phase[fresh] = stretches.phases[is_fresh]
            self._run_begin[fresh] = first[is_fresh]
            self._program.begin_runs(fresh, stretches.phases[is_fresh])
        is_watched = self._is_watched[stretches.phases]
        if not is_watched.all():
            stretches, first = stretches.take(is_watched), first[is_watched]
            slots = stretches.slots
        if not slots.size:
            return
        rows = None
        if stretches.lengths.sum() < len(scores):
            rows = rows_of(stretches)
            scores, positions = scores[rows], positions[rows]
        block = Block.of(
            slots,
            self._run_begin[slots],
            first,
            stretches.lengths,
            scores,
            positions.astype(np.int64),
        )
        for hit in self._program.observe(block):
            row = hit.row if rows is None else int(rows[hit.row])
            yield row, self._about_tokens[hit.rule], hit

    def _matches(
        self,
        hits: list[tuple[int, int, Hit]],
        keys: Sequence[str],
        row_starts: IntArray,
        positions: IntArray,
        phases: npt.NDArray[np.uint8],
    ) -> list[Match]:
        hits.sort(key=lambda each: each[:2])
        matches = []
        for row, index, hit in hits:
            key = keys[int(np.searchsorted(row_starts, row, side="right")) - 1]
            rule, counts = self._rules[index], self._requests[key].matches
            counts[index] = counts.get(index, 0) + 1
            matches.append(
                Match(
                    rule=rule,
                    key=key,
                    position=int(positions[row]),
                    first_position=hit.first_position,
                    phase=Phase(int(phases[row])),
                    readings=hit.readings,
                    limited=counts[index] > (rule.max_per_request or counts[index]),
                )
            )
        return matches


def _keep_freed_memory() -> None:
    """Have glibc reuse the megabyte-sized arrays of a step, instead of giving them back each time.

    Freeing a large block raises its thresholds for doing so to that size. Without this, page faults
    are half of the time of a decode step. The block itself is never touched, so it costs nothing.
    """
    np.empty(24 * 2**20, np.uint8)
