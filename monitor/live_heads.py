"""Fills the columns of heads, as the rows of live requests come or as they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from saeguard.monitor.columns import arranged
from saeguard.monitor.heads import Head, Numbers, row_name, row_names
from saeguard.monitor.messages import Floats, Ints
from saeguard.monitor.phases import Codes, Starts
from saeguard.monitor.pooling import empty_state, pool
from saeguard.rules.engine.stretches import Stretches, cut, turns
from saeguard.rules.recordings.offline import RecordedRequest

Slots = npt.NDArray[np.int64]

_NO_PHASE = -1
_FEW_SLOTS = 64


@dataclass(slots=True)
class _Placed:
    """A head, where its columns are, and what it keeps of every slot's request."""

    head: Head
    identity: str
    column: int
    rows: list[int]
    state: Numbers  # [slots, state]


class LiveHeads:
    """The heads of a watchlist over many requests. It takes each row once, in the order of its
    request: no token that is taken back later, and none again.
    """

    def __init__(
        self, heads: Mapping[str, Head], columns: Sequence[str], identities: Sequence[str] = ()
    ) -> None:
        """
        Args:
            heads: by the names of their features.
            columns: names of the score columns: those of the heads, and of their rows.
            identities: of the columns; see `Watchlist.identities`.
        """
        places = {name: i for i, name in enumerate(columns)}
        identities = identities or columns
        self._heads = [
            _Placed(
                head,
                identities[places[name]],
                places[name],
                [places[row_name(name, row)] for row in range(head.num_rows)],
                np.empty((0, len(empty_state(head)))),
            )
            for name, head in heads.items()
        ]
        self._columns = [each.column for each in self._heads]
        self._pools = [each for each in self._heads if each.head.num_pooled]
        self._phases = np.empty(0, np.int64)  # of each slot's request, as the others
        self._begins = np.empty(0, np.int64)  # the position with which its phase run began
        self._ends = np.empty(0, np.int64)  # the position after its last row

    def open(self, slot: int) -> None:
        """A request begins in this slot."""
        if self._pools:
            self._grow(slot + 1)
            self._clear(slice(slot, slot + 1))

    def take_over(self, before: LiveHeads) -> None:
        """Go on with live requests that were under other heads until now. A head that is as before,
        with its rows, keeps what it had; any other begins now, and lacks the tokens before.
        """
        if not self._pools:
            return
        known = len(before._phases)
        self._grow(known)
        self._phases[:known], self._begins[:known] = before._phases, before._begins
        self._ends[:known] = before._ends
        states = {each.identity: each.state for each in before._pools}
        for each in self._pools:
            if each.identity in states:
                each.state[:known] = states[each.identity]

    def fill(
        self, slots: Slots, starts: Starts, scores: Floats, positions: Ints, phases: Codes
    ) -> None:
        """Write the heads' scores into their columns; NaN where there is none.

        Args:
            slots: of the requests.
            starts: [requests + 1], where the rows of each begin.
            scores: [rows, columns], changed in place; NaN where not observed.
            positions: [rows]
            phases: [rows]
        """
        if not self._heads:
            return
        with np.errstate(all="ignore"):
            for each in self._heads:
                if not each.head.num_pooled:
                    scores[:, each.column] = each.head.token_scores(scores[:, each.rows])
            if self._pools:
                self._pool(cut(slots, starts, phases), scores, positions)
            filled = scores[:, self._columns]  # a float32 may have overflowed
            scores[:, self._columns] = np.where(np.isfinite(filled), filled, np.float32(np.nan))

    def _pool(self, stretches: Stretches, scores: Floats, positions: Ints) -> None:
        """The scores of the heads that look at the tokens so far."""
        pooled = [(each, each.head.outputs(scores[:, each.rows])) for each in self._pools]
        self._grow(int(stretches.slots.max()) + 1)
        for turn in turns(stretches):
            self._begin_runs(turn, positions)
            for length in np.unique(turn.lengths):
                lanes = turn.take(turn.lengths == length)
                rows = lanes.begins[:, None] + np.arange(length)
                for each, outputs in pooled:
                    num_tokens = self._num_tokens(each.head, lanes.slots, positions[rows])
                    scores[rows, each.column], each.state[lanes.slots] = pool(
                        each.head, each.state[lanes.slots], outputs[rows], num_tokens
                    )

    def _begin_runs(self, turn: Stretches, positions: Ints) -> None:
        """Where a stretch is of another phase than what was before it, a run begins. Positions
        that never came count as its own.
        """
        fresh = turn.slots[turn.phases != self._phases[turn.slots]]
        self._begins[fresh] = self._ends[fresh]
        self._phases[turn.slots] = turn.phases
        self._ends[turn.slots] = positions[turn.begins + turn.lengths - 1] + 1
        for each in self._pools:
            if each.head.over == "phase":
                each.state[fresh] = empty_state(each.head)

    def _num_tokens(self, head: Head, slots: Slots, positions: Ints) -> npt.NDArray[np.int64]:
        """Up to each position, those that the head is to pool; a request's first never counts."""
        begins = self._begins[slots] if head.over == "phase" else np.zeros_like(slots)
        num_tokens: npt.NDArray[np.int64] = positions + 1 - np.maximum(begins, 1)[:, None]
        return num_tokens

    def _grow(self, num_slots: int) -> None:
        known = len(self._phases)
        if num_slots <= known:
            return
        room = max(_FEW_SLOTS, 2 * known, num_slots)
        for name in ("_phases", "_begins", "_ends"):
            setattr(self, name, np.resize(getattr(self, name), room))
        for each in self._pools:
            each.state = np.resize(each.state, (room, each.state.shape[1]))
        self._clear(slice(known, room))

    def _clear(self, slots: slice) -> None:
        self._phases[slots], self._begins[slots], self._ends[slots] = _NO_PHASE, 0, 0
        for each in self._pools:
            each.state[slots] = empty_state(each.head)


def with_scores(request: RecordedRequest, heads: Mapping[str, Head]) -> RecordedRequest:
    """The request with the scores of the heads, and without their rows: as a monitor records it.

    Args:
        request: has the rows of the heads as columns, and one for each head.
    """
    if not heads:
        return request
    scores = request.scores.copy()
    LiveHeads(heads, request.columns).fill(
        np.array([0]),
        np.array([0, len(scores)]),
        scores,
        request.positions,
        request.phases,
    )
    rows = set(row_names(heads))
    kept = np.array([i for i, name in enumerate(request.columns) if name not in rows], np.intp)
    columns = tuple(request.columns[i] for i in kept)
    return replace(request, columns=columns, scores=arranged(scores, kept))
