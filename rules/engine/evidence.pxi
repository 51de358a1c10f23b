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
        table = np.empty((block.num_rows, height), np.bool_)
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
                        memset(&possible[num_chosen, 0], False, possible.shape[1])
                        for test in range(until.shape[1]):
                            possible[num_chosen, test] = until[slot, test] >= token
                        num_chosen += 1
        return rows[:num_chosen], table[:num_chosen].T
