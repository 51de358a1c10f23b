# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""The loops that a call spends its time in, compiled: `kernels.py` says when they are used.

Each class is one that uses NumPy with its costliest methods done token by token. What these take
and return is said there; only the last digit of a sum can differ.

Nothing is checked where it is indexed. Of a block its slots, rows and width are checked on the way
in, and all else in it follows from those; so are indices of tests, rules and rows. Columns are
those that a class was made with.
"""

from libc.math cimport NAN, fmax, fmin
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memchr, memcpy

import numpy as np

from saeguard.rules.engine import averages, evidence, runs, windowed


cdef int check_block(block, Py_ssize_t num_slots, Py_ssize_t num_columns) except -1:
    """Raises IndexError unless the lanes, in order, make up the rows of the scores."""
    cdef const int64_t[::1] slots = block.slots, starts = block.starts
    cdef Py_ssize_t lane, num_lanes = slots.shape[0]
    if block.scores.shape != (block.num_rows, num_columns):
        raise IndexError(f"scores of {num_columns} columns: {block.scores.shape}")
    if starts.shape[0] != num_lanes + 1 or starts[0] != 0 or starts[num_lanes] != block.num_rows:
        raise IndexError("the lanes do not make up the rows")
    for lane in range(num_lanes):
        if not (0 <= slots[lane] < num_slots and starts[lane] <= starts[lane + 1]):
            raise IndexError(f"lane {lane}: slot {slots[lane]}, from row {starts[lane]}")
    return 0


cdef int check_indices(const int64_t[::1] indices, Py_ssize_t size) except -1:
    cdef Py_ssize_t i
    for i in range(indices.shape[0]):
        if not 0 <= indices[i] < size:
            raise IndexError(f"{indices[i]} is not an index of {size}")
    return 0


class Averages(averages.Averages):
    def observe(self, block, has_holes):
        cdef const float[:, ::1] scores = block.scores
        cdef const int64_t[::1] slots = block.slots, starts = block.starts
        cdef const int64_t[::1] columns = self._columns
        cdef const double[::1] gain = self._gain
        cdef double[:, ::1] state = self._state
        cdef uint8_t[:, ::1] begun = self._begun.view(np.uint8)
        found = np.empty((scores.shape[0], columns.shape[0]))
        cdef double[:, ::1] values = found
        cdef Py_ssize_t lane, row, i
        cdef int64_t slot
        cdef float x
        check_block(block, state.shape[0], self._num_columns)
        with nogil:
            for lane in range(slots.shape[0]):
                slot = slots[lane]
                for row in range(starts[lane], starts[lane + 1]):
                    for i in range(columns.shape[0]):
                        x = scores[row, columns[i]]
                        if x == x:
                            state[slot, i] += gain[i] * (x - state[slot, i])
                            begun[slot, i] = True
                        values[row, i] = state[slot, i] if begun[slot, i] else NAN
        return found.T


cdef void mark(
    const float* scores, const float* lowest, uint8_t* marks, Py_ssize_t size
) noexcept nogil:
    """1 for what is above its column's lowest level, and for NaN. C compilers vectorise it."""
    cdef Py_ssize_t column
    for column in range(size):
        marks[column] = not scores[column] <= lowest[column]


cdef Py_ssize_t next_marked(const uint8_t* marks, Py_ssize_t begin, Py_ssize_t size) noexcept nogil:
    cdef const void* found = memchr(marks + begin, 1, size - begin)
    return size if found == NULL else <const uint8_t*> found - marks


cdef double weight_with(
    double weight, int64_t number, int32_t* bucket, float* current, float* previous
) noexcept nogil:
    """Add it to the bucket of this number: the weight of that and of the one before."""
    if bucket[0] == number:
        current[0] += weight
    else:
        previous[0] = current[0] if bucket[0] == number - 1 else 0
        current[0] = weight
        bucket[0] = number
    return <double> current[0] + previous[0]


cdef struct Bound:  # as the records of `Evidence`
    double level, cap, need
    int64_t per, span, reach


class Evidence(evidence.Evidence):
    def __init__(self, *args):
        super().__init__(*args)
        fields = self._levels, self._caps, self._needs, self._per, self._spans, self._reach
        self._bounds = np.array(list(zip(*fields)), "f8, f8, f8, i8, i8, i8")

    def table(self, block, has_holes, is_chosen, height):
        cdef const float[:, ::1] scores = block.scores
        cdef const int64_t[::1] slots = block.slots, starts = block.starts
        cdef const int64_t[::1] first = block.first, ages = block.ages
        cdef const int64_t[:, ::1] tests_of = self._tests_of
        cdef const float[::1] lowest = self._lowest
        cdef const Bound[::1] bounds = self._bounds
        cdef int32_t[:, ::1] until = self._until, bucket = self._bucket
        cdef float[:, ::1] current = self._current, previous = self._previous
        cdef int64_t[::1] any_until = self._any_until
        cdef const uint8_t[::1] chosen = is_chosen.view(np.uint8)
        rows = np.empty(block.num_rows, np.int64)
        table = np.zeros((block.num_rows, height), np.bool_)
        cdef int64_t[::1] chosen_rows = rows
        cdef uint8_t[:, ::1] possible = table.view(np.uint8)
        cdef uint8_t[::1] marks = np.empty(lowest.shape[0], np.uint8)
        cdef Py_ssize_t lane, row, column, i, num_columns = lowest.shape[0], num_chosen = 0
        cdef int64_t slot, token, test
        cdef const Bound* bound
        cdef double weight
        cdef float x
        check_block(block, until.shape[0], num_columns)
        assert chosen.shape[0] == block.num_rows and height >= until.shape[1]
        with nogil:
            for lane in range(slots.shape[0]):
                slot = slots[lane]
                for row in range(starts[lane], starts[lane + 1]):
                    token = first[lane] + row - starts[lane]
                    mark(&scores[row, 0], &lowest[0], &marks[0], num_columns)
                    column = next_marked(&marks[0], 0, num_columns)
                    while column < num_columns:
                        x = scores[row, column]
                        for i in range(tests_of.shape[1]):
                            test = tests_of[column, i]
                            if test < 0:
                                break
                            bound = &bounds[test]
                            if x > bound.level:
                                weight = weight_with(
                                    fmin(x - bound.level, bound.cap),
                                    token // bound.span,
                                    &bucket[slot, test],
                                    &current[slot, test],
                                    &previous[slot, test],
                                )
                                if weight < bound.need * min(ages[row] + 1, bound.per):
                                    continue
                            elif x == x or bound.per == 1:
                                continue  # else a mean lacks this score
                            until[slot, test] = token + bound.reach
                            any_until[slot] = max(any_until[slot], token + bound.reach)
                        column = next_marked(&marks[0], column + 1, num_columns)
                    if any_until[slot] >= token or chosen[row]:
                        chosen_rows[num_chosen] = row
                        for test in range(until.shape[1]):
                            possible[num_chosen, test] = until[slot, test] >= token
                        num_chosen += 1
        return rows[:num_chosen], table[:num_chosen].T


include "formulas.pxi"


class Windowed(windowed.Windowed):
    def __init__(self, aggregates, columns, num_columns):
        super().__init__(aggregates, columns, num_columns)
        self._records = np.array(
            [
                (KINDS[a.kind], span, column, a.k, a.rolling, a.over, a.zero, a.one - a.zero)
                for a, span, column in zip(aggregates, self.spans, columns)
            ],
            "i8, i8, i8, i8, i8, f8, f8, f8",
        )

    def remember(self, block):
        cdef const float[:, ::1] scores = block.scores
        cdef const int64_t[::1] slots = block.slots, starts = block.starts
        cdef const int64_t[::1] tokens = block.tokens, positions = block.positions
        cdef float[:, :, ::1] ring = self.history.scores
        cdef int64_t[:, ::1] ring_positions = self.history.positions
        cdef Py_ssize_t lane, row, place, length = ring.shape[1]
        cdef size_t num_bytes = scores.shape[1] * sizeof(float)
        check_block(block, ring.shape[0], ring.shape[2])
        with nogil:
            for lane in range(slots.shape[0]):
                for row in range(max(starts[lane], starts[lane + 1] - length), starts[lane + 1]):
                    place = tokens[row] & (length - 1)
                    memcpy(&ring[slots[lane], place, 0], &scores[row, 0], num_bytes)
                    ring_positions[slots[lane], place] = positions[row]

    def values(self, block, which, rows):
        cdef const float[:, ::1] scores = block.scores
        cdef const float[:, :, ::1] ring = self.history.scores
        cdef const int64_t[::1] starts = block.starts, lanes = block.lanes, slot_of = block.slot_of
        cdef const int64_t[::1] tokens = block.tokens, ages = block.ages
        cdef const int64_t[::1] tests = which, at = rows
        cdef const Parameters[::1] parameters = self._records
        cdef float[::1] window = np.empty(self._longest, np.float32)
        cdef double[::1] scratch = np.empty(2 * (self._longest + 1))
        found = np.empty(tests.shape[0])
        cdef double[::1] values = found
        cdef Py_ssize_t i, back, size, num_new, mask = ring.shape[1] - 1
        cdef int64_t row
        cdef const Parameters* of
        check_block(block, ring.shape[0], ring.shape[2])
        check_indices(tests, parameters.shape[0])
        check_indices(at, scores.shape[0])
        with nogil:
            for i in range(tests.shape[0]):
                row, of = at[i], &parameters[tests[i]]
                size = min(of.span, ages[row] + 1)
                num_new = min(size, row - starts[lanes[row]] + 1)
                for back in range(num_new):
                    window[back] = scores[row - back, of.column]
                for back in range(num_new, size):
                    window[back] = ring[slot_of[row], (tokens[row] - back) & mask, of.column]
                values[i] = value_of(of, &window[0], size, &scratch[0])
        return found


class Runs(runs.Runs):
    def observe(self, slots, rules, numbers, positions):
        cdef const int64_t[::1] slot_of = slots, rule_of = rules, number_of = numbers
        cdef const int64_t[::1] position_of = positions
        cdef const int64_t[::1] needed = self._for, keep = self._keep
        cdef int32_t[:, ::1] last = self._last, length = self._length
        cdef int64_t[:, ::1] began = self._began
        cdef uint8_t[:, ::1] firing = self._firing.view(np.uint8)
        begins, counts_from = np.empty_like(slots), np.empty_like(slots)
        cdef int64_t[::1] out = begins, first = counts_from
        cdef Py_ssize_t i, num_begins = 0
        cdef int64_t slot, rule, num_false
        check_indices(slot_of, last.shape[0])
        check_indices(rule_of, last.shape[1])
        with nogil:
            for i in range(slot_of.shape[0]):
                slot, rule = slot_of[i], rule_of[i]
                num_false = number_of[i] - last[slot, rule] - 1
                last[slot, rule] = number_of[i]
                if num_false:
                    length[slot, rule] = 0
                    began[slot, rule] = position_of[i]
                length[slot, rule] += 1
                if num_false > keep[rule]:
                    firing[slot, rule] = False
                if length[slot, rule] >= needed[rule] and not firing[slot, rule]:
                    firing[slot, rule] = True
                    out[num_begins] = i
                    first[num_begins] = began[slot, rule]
                    num_begins += 1
        return begins[:num_begins], counts_from[:num_begins]

    observe_one_each = observe
