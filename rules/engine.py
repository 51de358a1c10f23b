"""Runs the rules over the scores of many requests at once, as they come.

Semantics, written down once:

* A *phase run* is a maximal stretch of a request's tokens in one phase. Windows, averages and `for`
  live within one run; a new run starts from nothing.
* A rule looks only at runs of phases in its scope, of requests that its scope admits.
* NaN means "not observed", never zero: see `aggregates.py` and, for whole rules, `program.py`. A
  token that is not passed at all does not exist for the engine; pass NaN to hold its place.
* A rule *matches* on the token on which it begins to fire; while it goes on, that is one match.
* Matches beyond a rule's limit are returned too, marked `limited`.
* How a stream is cut into calls of `observe` changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saeguard.rules.aggregates import Indices, Scores
from saeguard.rules.matches import Match, RuleCount
from saeguard.rules.model import RuleSet
from saeguard.rules.phases import Phase
from saeguard.rules.program import Hit, Program
from saeguard.rules.scope import RequestContext

IntArray = npt.NDArray[np.integer]
_NO_PHASE = -1


@dataclass(slots=True)
class _Request:
    slot: int
    matches: dict[int, int] = field(default_factory=dict)  # index of the rule -> matches so far
    phase: int = _NO_PHASE


@dataclass(slots=True)
class _Batch:
    """Phase runs of equal length, of different requests, that one program evaluates together."""

    program: int
    length: int
    rows: list[int] = field(default_factory=list)  # where each run begins
    keys: list[str] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    fresh_slots: list[int] = field(default_factory=list)  # those whose phase has just changed


class Engine:
    """Evaluates a rule set. Not thread-safe; it never raises on the values of scores."""

    def __init__(self, ruleset: RuleSet, columns: Sequence[str], max_requests: int = 4096) -> None:
        """
        Args:
            ruleset: the rules.
            columns: name of the feature in each column of the scores.
            max_requests: live requests; `start` refuses more and counts them in `num_refused`.

        Raises:
            ValueError: a rule reads a feature that no column has.
        """
        if missing := [name for name in ruleset.used_features() if name not in columns]:
            raise ValueError(f"no scores for the feature(s) {', '.join(missing)}")
        self.num_refused = 0
        """Calls of `start` that found the table full."""
        self.num_ignored_tokens = 0
        """Tokens of requests that were never started, or refused."""
        self._rules = ruleset.rules
        self._requests: dict[str, _Request] = {}
        self._free_slots = list(reversed(range(max_requests)))
        self._compile(columns, max_requests)
        _keep_freed_memory()

    def _compile(self, columns: Sequence[str], max_requests: int) -> None:
        """One program for each set of rules that some phase has; a phase without rules has none."""
        self._programs: list[tuple[Program, Indices, tuple[int, ...]]] = []
        self._program_of_phase: dict[int, int] = {}
        known: dict[tuple[int, ...], int] = {}
        for phase in Phase:
            members = tuple(i for i, rule in enumerate(self._rules) if phase in rule.scope.phases)
            if not members:
                continue
            if members not in known:
                program = Program([self._rules[i] for i in members], max_requests)
                chosen = np.array([list(columns).index(name) for name in program.features])
                known[members] = len(self._programs)
                self._programs.append((program, chosen, members))
            self._program_of_phase[phase] = known[members]

    def start(self, key: str, context: RequestContext) -> None:
        """Begin to follow a request. A key that is already followed stays as it is."""
        if key in self._requests:
            return
        if not self._free_slots:
            self.num_refused += 1
            return
        slot = self._free_slots.pop()
        self._requests[key] = _Request(slot)
        for program, _, _ in self._programs:
            program.admit(slot, context)

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
        for program, _, members in self._programs:
            program.rearm(
                request.slot,
                [row for row, index in enumerate(members) if index not in request.matches],
            )

    def finish(self, key: str) -> list[RuleCount]:
        """Forget a request; what matched in it. Nothing for an unknown key."""
        request = self._requests.pop(key, None)
        if request is None:
            return []
        self._free_slots.append(request.slot)
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
        found: list[tuple[int, int, str, Hit]] = []
        with np.errstate(invalid="ignore", over="ignore"):
            for batch in self._batches(keys, row_starts, phases):
                found += self._run(batch, scores, positions)
        found.sort()  # a rule fires once on a row at most, so this never compares hits
        return [
            self._match(key, rule, hit, int(positions[row]), Phase(int(phases[row])))
            for row, rule, key, hit in found
        ]

    def _batches(
        self, keys: Sequence[str], row_starts: IntArray, phases: npt.NDArray[np.uint8]
    ) -> list[_Batch]:
        """Phase runs that can be evaluated together; runs of one request stay in their order."""
        batches: dict[tuple[int, int, int], _Batch] = {}
        num_runs: dict[str, int] = {}
        for key, row, length in _runs(keys, row_starts, phases):
            request = self._requests.get(key)
            if request is None:
                self.num_ignored_tokens += length
                continue
            phase = int(phases[row])
            is_fresh, request.phase = phase != request.phase, phase
            number = self._program_of_phase.get(phase)
            if number is None:
                continue
            turn = num_runs[key] = num_runs.get(key, 0) + 1
            batch = batches.setdefault((turn, number, length), _Batch(number, length))
            batch.rows.append(row)
            batch.keys.append(key)
            batch.slots.append(request.slot)
            if is_fresh:
                batch.fresh_slots.append(request.slot)
        return [batch for _, batch in sorted(batches.items(), key=lambda item: item[0])]

    def _run(
        self, batch: _Batch, scores: Scores, positions: IntArray
    ) -> Iterator[tuple[int, int, str, Hit]]:
        program, columns, rules = self._programs[batch.program]
        if batch.fresh_slots:
            program.reset(np.array(batch.fresh_slots))
        rows = np.array(batch.rows) + np.arange(batch.length)[:, None]
        hits = program.observe(
            np.array(batch.slots), scores[rows.T[:, None], columns[:, None]], positions[rows]
        )
        for hit in hits:
            yield int(rows[hit.token, hit.lane]), rules[hit.rule], batch.keys[hit.lane], hit

    def _match(self, key: str, index: int, hit: Hit, position: int, phase: Phase) -> Match:
        rule, matches = self._rules[index], self._requests[key].matches
        matches[index] = matches.get(index, 0) + 1
        return Match(
            rule=rule,
            key=key,
            position=position,
            first_position=hit.first_position,
            phase=phase,
            readings=hit.readings,
            limited=matches[index] > (rule.max_per_request or matches[index]),
        )


def _runs(
    keys: Sequence[str], row_starts: IntArray, phases: npt.NDArray[np.uint8]
) -> Iterator[tuple[str, int, int]]:
    """Cut rows into runs of one request and one phase: (key, first row, length)."""
    num_rows = len(phases)
    begins = np.zeros(num_rows + 1, np.bool_)
    begins[row_starts] = True  # the end of the last request among them
    begins[1:-1] |= phases[1:] != phases[:-1]
    bounds = np.flatnonzero(begins)
    owners = np.searchsorted(row_starts, bounds[:-1], side="right") - 1
    lengths = np.diff(bounds)
    for owner, row, length in zip(owners.tolist(), bounds.tolist(), lengths.tolist(), strict=False):
        yield keys[owner], row, length


def _keep_freed_memory() -> None:
    """Have glibc reuse the megabyte-sized arrays of a step, instead of giving them back each time.

    Freeing a large block raises its thresholds for doing so to that size. Without this, page faults
    are half of the time of a decode step. The block itself is never touched, so it costs nothing.
    """
    np.empty(24 * 2**20, np.uint8)
