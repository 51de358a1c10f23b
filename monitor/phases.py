"""Which part of a conversation each row belongs to.

The row at position p is the state after reading token p, and takes that token's phase. Tokens of
the prompt are `system` or `prompt`, earlier turns of the model included; generated ones are
`answer`, `reasoning` or `tool_call`. The last sampled token is never read, so it has no row.

A delimiter belongs to the phase that it delimits. A generated token is labelled once, when it
comes: where several tokens make an opening, the phase changes with the one that completes it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from saeguard.monitor.delimiters import Delimiters, Ids
from saeguard.monitor.messages import FrameArrays, Ints
from saeguard.rules import Phase

Codes = npt.NDArray[np.uint8]
"""`Phase` codes, [tokens]."""

Starts = npt.NDArray[np.intp]
"""[requests + 1]: request i has the rows `starts[i]` to `starts[i + 1]`."""


_LOST = -1
"""Stands for a token whose row did not come."""

_FEW = 64

_MAX_PROMPT_STOPS = 1024
"""How many at the end of a prompt are followed one by one: a few milliseconds. The last turn of an
ordinary prompt has less than ten."""


class PhaseMatcher:
    """Finds a model's delimiters among token ids; shared by all of its requests."""

    def __init__(self, delimiters: Delimiters) -> None:
        self._delimiters = delimiters
        self.openings: dict[Ids, Phase] = {}
        self.closings: dict[Ids, set[Phase]] = defaultdict(set)
        generated = {Phase.REASONING: delimiters.reasoning, Phase.TOOL_CALL: delimiters.tool_call}
        for phase, spans in generated.items():
            for span in spans:
                self.openings[span.opening] = phase
                for closing in span.closings:
                    self.closings[closing].add(phase)
        delimiting = (*self.openings, *self.closings)
        self.stops = frozenset([_LOST, *(ids[0] for ids in delimiting)])
        """Tokens with which a delimiter may begin, or that were lost."""
        self._stop_ids = np.array(sorted(self.stops), np.int32)
        self.beginnings = frozenset(ids[:n] for ids in delimiting for n in range(1, len(ids)))
        """What may yet become a delimiter."""

    def find_stops(self, token_ids: Ints) -> npt.NDArray[np.intp]:
        """Where they are."""
        return np.flatnonzero(np.isin(token_ids, self._stop_ids))

    def prompt_phases(self, token_ids: Ints) -> Codes:
        """Of a whole prompt. A system text that does not end is none."""
        depth = np.zeros(len(token_ids) + 1, np.int32)
        for span in self._delimiters.system:
            starts = _find(token_ids, span.opening)
            if not len(starts):
                continue
            ends = [_find(token_ids, closing) + len(closing) for closing in span.closings]
            ends += [_find(token_ids, span.before)] if span.before else []
            together = np.sort(np.concatenate(ends))
            which = np.searchsorted(together, starts + len(span.opening))
            is_closed = which < len(together)
            np.add.at(depth, starts[is_closed], 1)
            np.add.at(depth, together[which[is_closed]], -1)
        is_system = np.cumsum(depth[:-1]) > 0
        return np.where(is_system, np.uint8(Phase.SYSTEM), np.uint8(Phase.PROMPT))

    def last_turn(self, token_ids: Ints) -> Ints:
        """The prompt's end, from where the last turn ended or the model's began.

        Less where somebody filled it with delimiters.
        """
        starts = [_find(token_ids, ids)[-1:] for ids in self._delimiters.turns]
        turn = token_ids[max((int(s) for found in starts for s in found), default=0) :]
        stops = self.find_stops(turn)
        return turn if len(stops) <= _MAX_PROMPT_STOPS else turn[stops[-_MAX_PROMPT_STOPS] :]


class PhaseTracker:
    """Follows one request's tokens, in order, each once."""

    def __init__(self, prompt_token_ids: Sequence[int], matcher: PhaseMatcher) -> None:
        self._prompt_token_ids = prompt_token_ids
        self.prompt_len = len(prompt_token_ids)
        self.num_unsure = 0
        """Tokens whose phase rests on what was before a gap, in which a delimiter may be lost."""
        self._matcher = matcher
        self._phase = Phase.ANSWER
        self._recent: list[int] = []
        """Tokens that may yet become a delimiter."""
        self._is_unsure = False

    def phases(self, position: int, token_ids: Ints) -> Codes:
        """Of tokens from `position` on; -1 stands for one that was lost."""
        num_prompt = min(max(self.prompt_len - position, 0), len(token_ids))
        prompt = self._prompt_phases[position : position + num_prompt]
        if num_prompt == len(token_ids):
            return prompt
        return np.concatenate([prompt, self._follow(token_ids[num_prompt:])])

    def next_phase(self, token_id: int) -> Phase:
        """Of one generated token."""
        _ = self._prompt_phases  # which finds the phase that the prompt ends in
        if self._is_settled and token_id not in self._matcher.stops:
            return self._phase
        return self._read(token_id)

    def lose(self) -> None:
        """Tokens were not seen, and with them perhaps a delimiter."""
        _ = self._prompt_phases
        self._recent.clear()
        self._is_unsure = len(self._matcher.stops) > 1

    @property
    def _is_settled(self) -> bool:
        """Until the next stop, nothing changes the phase."""
        return not self._recent and not self._is_unsure

    @cached_property
    def _prompt_phases(self) -> Codes:
        token_ids = np.array(self._prompt_token_ids, np.int32)
        # A template may open the reasoning itself, at the end of the prompt.
        self._follow(self._matcher.last_turn(token_ids))
        return self._matcher.prompt_phases(token_ids)

    def _follow(self, token_ids: Ints) -> Codes:
        is_short = len(token_ids) <= _FEW  # so that NumPy's calls would cost more than they save
        if is_short and self._is_settled and self._matcher.stops.isdisjoint(token_ids.tolist()):
            return np.full(len(token_ids), self._phase, np.uint8)
        codes = np.empty(len(token_ids), np.uint8)
        stops = [*self._matcher.find_stops(token_ids).tolist(), len(token_ids)]
        i = 0
        while i < len(token_ids):
            stop = stops[bisect_left(stops, i)]
            if i == stop or not self._is_settled:
                codes[i] = self._read(int(token_ids[i]))
                i += 1
            else:
                codes[i:stop] = self._phase
                i = stop
        return codes

    def _read(self, token_id: int) -> Phase:
        """Take in one token, and return its phase."""
        if token_id == _LOST:
            self.lose()
            return self._phase
        self._recent.append(token_id)
        phase = self._delimited()
        self.num_unsure += self._is_unsure
        while self._recent and tuple(self._recent) not in self._matcher.beginnings:
            del self._recent[0]
        return phase

    def _delimited(self) -> Phase:
        """The phase of the newest token, which may complete a delimiter."""
        before = self._phase
        for start in range(len(self._recent)):
            ids = tuple(self._recent[start:])
            if before in self._matcher.closings.get(ids, ()):
                self._phase, self._is_unsure = Phase.ANSWER, False
                return before
            if ids in self._matcher.openings:
                self._phase, self._is_unsure = self._matcher.openings[ids], False
                return self._phase
        return before


class ResumedTracker:
    """Follows a request whose client has gone on with its input. Rows before that input may still
    come, as they are told by other processes than it is.
    """

    def __init__(
        self, before: Tracker, position: int, prompt_token_ids: Sequence[int], matcher: PhaseMatcher
    ) -> None:
        """
        Args:
            before: follows the request up to that position, at which the new input begins.
            prompt_token_ids: all that was there when it came, and the input.
        """
        self._before: Tracker | None = before
        self._position = position
        self._after = PhaseTracker(prompt_token_ids, matcher)
        self._num_unsure_before = 0
        self.prompt_len = self._after.prompt_len

    @property
    def num_unsure(self) -> int:
        before = self._before.num_unsure if self._before else self._num_unsure_before
        return before + self._after.num_unsure

    def phases(self, position: int, token_ids: Ints) -> Codes:
        if self._before is None:
            return self._after.phases(position, token_ids)
        num_before = min(max(self._position - position, 0), len(token_ids))
        codes = self._before.phases(position, token_ids[:num_before])
        if num_before < len(token_ids):
            self._num_unsure_before, self._before = self._before.num_unsure, None
            after = self._after.phases(position + num_before, token_ids[num_before:])
            codes = np.concatenate([codes, after])
        return codes

    def next_phase(self, token_id: int) -> Phase:
        return self._after.next_phase(token_id)


Tracker = PhaseTracker | ResumedTracker


def phases_of(trackers: Iterable[Tracker], starts: Starts, rows: FrameArrays) -> Codes:
    """Of a step's rows; those of one request are at consecutive positions."""
    codes = np.empty(len(rows.positions), np.uint8)
    bounds = starts.tolist()
    firsts = rows.positions[starts[:-1]].tolist()
    for tracker, first, start, end in zip(trackers, firsts, bounds, bounds[1:], strict=False):
        if end == start + 1 and first >= tracker.prompt_len:
            codes[start] = tracker.next_phase(int(rows.token_ids[start]))
        else:
            codes[start:end] = tracker.phases(first, rows.token_ids[start:end])
    return codes


def _find(token_ids: Ints, part: Ids) -> npt.NDArray[np.intp]:
    """Where `part` begins in `token_ids`."""
    starts = np.flatnonzero(token_ids[: max(0, len(token_ids) - len(part) + 1)] == part[0])
    for offset, token_id in enumerate(part[1:], start=1):
        starts = starts[token_ids[starts + offset] == token_id]
    return starts
