# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""The loops that a call spends its time in, compiled: `kernels.py` says when they are used.

Each class is one of NumPy's with its costliest method done token by token. The methods do what the
NumPy ones say, the tests hold both to the same reference, and a sum can differ in its last digit.

Nothing is checked where it is indexed. Slots, rows and widths are checked on the way in; columns
and tests are those that a class was made with.
"""

from libc.math cimport NAN, fmax, fmin
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memchr

import numpy as np

from saeguard.rules.engine import averages, evidence, windowed


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
    """1 for what is above the lowest level or NaN. Compilers vectorise it."""
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


class Evidence(evidence.Evidence):
    def table(self, block, has_holes, is_chosen, height):
        cdef const float[:, ::1] scores = block.scores
        cdef const int64_t[::1] slots = block.slots, starts = block.starts
        cdef const int64_t[::1] first = block.first, ages = block.ages
        cdef const int64_t[:, ::1] tests_of = self._tests_of
        cdef const float[::1] lowest = self._lowest
        cdef const double[::1] levels = self._levels, caps = self._caps, needs = self._needs
        cdef const int64_t[::1] per = self._per, spans = self._spans, reach = self._reach
        cdef int32_t[:, ::1] until = self._until, bucket = self._bucket
        cdef float[:, ::1] current = self._current, previous = self._previous
        cdef int64_t[::1] any_until = self._any_until
        cdef uint8_t[::1] chosen = is_chosen.view(np.uint8)
        cdef uint8_t[::1] marks = np.empty(lowest.shape[0], np.uint8)
        rows = np.empty(scores.shape[0], np.int64)
        table = np.zeros((scores.shape[0], height), np.bool_)
        cdef int64_t[::1] chosen_rows = rows
        cdef uint8_t[:, ::1] possible = table.view(np.uint8)
        cdef Py_ssize_t lane, row, column, i, num_columns = lowest.shape[0], num_chosen = 0
        cdef int64_t slot, test, token
        cdef bint is_possible
        cdef float x
        cdef double weight
        check_block(block, until.shape[0], num_columns)
        assert height >= until.shape[1] and len(is_chosen) == block.num_rows
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
                            if x > levels[test]:
                                weight = weight_with(
                                    fmin(x - levels[test], caps[test]),
                                    token // spans[test],
                                    &bucket[slot, test],
                                    &current[slot, test],
                                    &previous[slot, test],
                                )
                                is_possible = weight >= needs[test] * min(ages[row] + 1, per[test])
                            else:
                                is_possible = x != x and per[test] > 1
                            if is_possible:
                                until[slot, test] = token + reach[test]
                                any_until[slot] = max(any_until[slot], token + reach[test])
                        column = next_marked(&marks[0], column + 1, num_columns)
                    if any_until[slot] >= token or chosen[row]:
                        chosen_rows[num_chosen] = row
                        for test in range(until.shape[1]):
                            possible[num_chosen, test] = until[slot, test] >= token
                        num_chosen += 1
        return rows[:num_chosen], np.ascontiguousarray(table[:num_chosen].T)


cdef enum Kind:
    AVERAGE, SUM, MEAN, COUNT, RANK, TOP_MEAN, NOISY_OR, ROLLING_MEAN


KINDS = {
    "ema": AVERAGE,
    "value": SUM,
    "sum": SUM,
    "mean": MEAN,
    "count": COUNT,
    "max": RANK,
    "min_evidence": RANK,
    "topk_mean": TOP_MEAN,
    "noisy_or": NOISY_OR,
    "rolling_mean_max": ROLLING_MEAN,
}


cdef double total(const float* x, Py_ssize_t size) noexcept nogil:
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(size):
        total += x[i]
    return total


cdef double count(const float* x, Py_ssize_t size, double over) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    for i in range(size):
        count += x[i] > over
    return count


cdef void keep_largest(
    const float* x, Py_ssize_t size, float* largest, Py_ssize_t k
) noexcept nogil:
    """The k largest of at least so many, in descending order."""
    cdef Py_ssize_t i, place, num_kept = 0
    for i in range(size):
        if num_kept < k:
            num_kept += 1
        elif x[i] <= largest[k - 1]:
            continue
        place = num_kept - 1
        while place > 0 and largest[place - 1] < x[i]:
            largest[place] = largest[place - 1]
            place -= 1
        largest[place] = x[i]


cdef double noisy_or(const float* x, Py_ssize_t size, double zero, double rise) noexcept nogil:
    cdef double absent = 1
    cdef Py_ssize_t i
    for i in range(size):
        absent *= 1 - fmin(fmax((x[i] - zero) / rise, 0), 1)
    return 1 - absent


cdef double rolling_mean_max(
    const float* x, Py_ssize_t size, Py_ssize_t rolling, double* totals
) noexcept nogil:
    """Of scores with NaN among them; `totals` has room for 2 (size + 1)."""
    cdef double* counts = totals + size + 1
    cdef double largest = NAN
    cdef Py_ssize_t begin, end
    totals[0] = counts[0] = 0
    for end in range(1, size + 1):
        totals[end] = totals[end - 1] + (x[end - 1] if x[end - 1] == x[end - 1] else 0)
        counts[end] = counts[end - 1] + (x[end - 1] == x[end - 1])
        begin = end - rolling
        if begin >= 0:
            largest = fmax(largest, (totals[end] - totals[begin]) / (counts[end] - counts[begin]))
    return largest


class Windowed(windowed.Windowed):
    def __init__(self, aggregates, columns, num_columns):
        super().__init__(aggregates, columns, num_columns)
        self._kinds = np.array([KINDS[each.kind] for each in aggregates], np.int64)

    def values(self, block, which, rows):
        cdef const float[:, ::1] scores = block.scores
        cdef const float[:, :, ::1] ring = self.history.scores
        cdef const int64_t[::1] starts = block.starts, lanes = block.lanes, slot_of = block.slot_of
        cdef const int64_t[::1] tokens = block.tokens, ages = block.ages
        cdef const int64_t[::1] tests = which, at = rows
        cdef const int64_t[::1] columns = self._columns, spans = self.spans, kinds = self._kinds
        cdef const int64_t[::1] ks = self._parameters.k, rolling = self._parameters.rolling
        cdef const double[::1] over = self._parameters.over
        cdef const double[::1] zero = self._parameters.zero, rise = self._parameters.rise
        cdef float[::1] window = np.empty(self._longest, np.float32)
        cdef float[::1] observed = np.empty(self._longest, np.float32)
        cdef float[::1] largest = np.empty(self._longest, np.float32)
        cdef double[::1] totals = np.empty(2 * (self._longest + 1))
        found = np.empty(tests.shape[0])
        cdef double[::1] values = found
        cdef Py_ssize_t i, back, size, num_new, n, k, mask = ring.shape[1] - 1
        cdef int64_t test, row, kind
        cdef double value
        check_block(block, ring.shape[0], ring.shape[2])
        check_indices(tests, kinds.shape[0])
        check_indices(at, scores.shape[0])
        with nogil:
            for i in range(tests.shape[0]):
                test, row = tests[i], at[i]
                kind, k = kinds[test], ks[test]
                size = min(spans[test], ages[row] + 1)
                num_new = min(size, row - starts[lanes[row]] + 1)
                for back in range(num_new):
                    window[back] = scores[row - back, columns[test]]
                for back in range(num_new, size):
                    window[back] = ring[slot_of[row], (tokens[row] - back) & mask, columns[test]]
                n = 0
                for back in range(size):
                    if window[back] == window[back]:
                        observed[n] = window[back]
                        n += 1
                value = NAN
                if kind == ROLLING_MEAN:
                    value = rolling_mean_max(&window[0], size, rolling[test], &totals[0])
                elif n < k or kind == AVERAGE:
                    value = NAN
                elif kind == SUM:
                    value = total(&observed[0], n)
                elif kind == MEAN:
                    value = total(&observed[0], n) / n
                elif kind == COUNT:
                    value = count(&observed[0], n, over[test])
                elif kind == NOISY_OR:
                    value = noisy_or(&observed[0], n, zero[test], rise[test])
                else:
                    keep_largest(&observed[0], n, &largest[0], k)
                    value = largest[k - 1]
                    if kind == TOP_MEAN:
                        value = total(&largest[0], k) / k
                values[i] = value
        return found
