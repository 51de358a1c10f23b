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
