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
