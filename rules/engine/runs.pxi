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
