"""`for` and `keep_firing_for`: when a condition that is true begins to be a match.

The rule's tokens of a phase run, those it does not skip, are numbered. Between two true ones all
others were false, so nothing has to be done for those: the difference of the numbers tells how many
there were. Per rule and slot it is enough to know the last true token, how many true ones in a row
end there and where they began, and whether the rule is firing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from saeguard.rules.engine.aggregates import Indices
from saeguard.rules.engine.blocks import extended

_NEVER = -(2**30)


class Runs:
    """The state of rules with a condition, for every slot."""

    def __init__(self, for_tokens: Sequence[int], keep_firing_for: Sequence[int]) -> None:
        self._for = np.array(for_tokens, np.int64)
        self._keep = np.array(keep_firing_for, np.int64)
        rules = (0, len(for_tokens))
        self._last = np.empty(rules, np.int32)  # number of the last true token
        self._length = np.empty(rules, np.int32)  # true tokens in a row that end there
        self._began = np.empty(rules, np.int64)  # position of the first of them
        self._firing = np.empty(rules, np.bool_)

    def grow(self, num_slots: int) -> None:
        self._last = extended(self._last, num_slots)
        self._length = extended(self._length, num_slots)
        self._began = extended(self._began, num_slots)
        self._firing = extended(self._firing, num_slots)

    def reset(self, slots: Indices) -> None:
        self._last[slots] = _NEVER
        self._firing[slots] = False

    def rearm(self, slot: int, rules: Sequence[int]) -> None:
        """Let rules that are firing in a slot fire again, on the next token on which they hold."""
        self._firing[slot, rules] = False

    def observe(
        self, slots: Indices, rules: Indices, numbers: Indices, positions: Indices
    ) -> tuple[Indices, Indices]:
        """Take tokens on which rules are true, ordered by rule, slot and number.

        Args:
            slots: [true tokens]
            rules: [true tokens]
            numbers: [true tokens], among the rule's tokens of the run.
            positions: [true tokens]

        Returns:
            Which of them begin a match, and for each the position at which `for` began to count.
        """
        opens = np.ones(len(slots), np.bool_)  # the first of its rule and slot
        opens[1:] = (slots[1:] != slots[:-1]) | (rules[1:] != rules[:-1])
        size = len(slots)
        index = np.arange(size)
        state = slots, rules
        before = self._last[state].astype(np.int64)
        before[1:] = np.where(opens[1:], before[1:], numbers[:-1])
        num_false = numbers - before - 1
        breaks = num_false > 0
        # How long the row of true tokens is, and where it began: since the last break, or before.
        since = np.maximum.accumulate(np.where(opens | breaks, index, 0))
        goes_on = (opens & ~breaks)[since]
        lengths = index - since + 1 + np.where(goes_on, self._length[state], 0)
        began = np.where(goes_on, self._began[state], positions[since])
        # An episode ends when `keep_firing_for` does; its first long enough row begins the match.
        ends_episode = num_false > self._keep[rules]
        episode = np.maximum.accumulate(np.where(opens | ends_episode, index, 0))
        was_firing = (opens & ~ends_episode & self._firing[state])[episode]
        completes = ((lengths >= self._for[rules]) & ~was_firing).nonzero()[0]
        of = episode[completes]
        firsts = completes[np.append(True, of[1:] != of[:-1])[: len(of)]]
        begins_match = np.zeros(size, np.bool_)
        begins_match[episode[firsts]] = True
        closes = np.append(opens[1:], True).nonzero()[0]
        last = slots[closes], rules[closes]
        self._last[last] = numbers[closes]
        self._length[last] = lengths[closes]
        self._began[last] = began[closes]
        self._firing[last] = (was_firing | begins_match[episode])[closes]
        return firsts, began[firsts]

    def observe_one_each(
        self, slots: Indices, rules: Indices, numbers: Indices, positions: Indices
    ) -> tuple[Indices, Indices]:
        """The same, when no slot has two true tokens of a rule, as when decoding."""
        cells = slots * len(self._for) + rules
        num_false = numbers - self._last.take(cells) - 1
        goes_on = num_false == 0
        lengths = np.where(goes_on, self._length.take(cells) + 1, 1)
        began = np.where(goes_on, self._began.take(cells), positions)
        firing = self._firing.take(cells) & (num_false <= self._keep[rules])
        firsts = ((lengths >= self._for[rules]) & ~firing).nonzero()[0]
        firing[firsts] = True
        self._last.put(cells, numbers)
        self._length.put(cells, lengths)
        self._began.put(cells, began)
        self._firing.put(cells, firing)
        return firsts, began[firsts]
