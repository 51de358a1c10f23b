class Predicates(predicates.Predicates):
    def __init__(self, *args):
        super().__init__(*args)
        clauses = [clause for each in self._clauses for clause in each]
        self._clause_ends = np.cumsum([0, *map(len, self._clauses)])
        self._member_ends = np.cumsum([0, *map(len, clauses)])
        self._members = np.array([test for clause in clauses for test in clause], np.int64)

    def possible(self, possible):
        cdef const uint8_t[:, :] holds = possible.view(np.uint8)
        cdef const int64_t[::1] clause_ends = self._clause_ends
        cdef const int64_t[::1] member_ends = self._member_ends, members = self._members
        cdef Py_ssize_t predicate, clause, i, column, num_columns = holds.shape[1]
        found = np.ones((clause_ends.shape[0] - 1, num_columns), np.bool_)
        cdef uint8_t[:, ::1] all_of = found.view(np.uint8)
        cdef uint8_t[::1] any_of = np.empty(num_columns, np.uint8)
        check_indices(members, holds.shape[0])
        with nogil:
            for predicate in range(all_of.shape[0]):
                for clause in range(clause_ends[predicate], clause_ends[predicate + 1]):
                    any_of[:] = False
                    for i in range(member_ends[clause], member_ends[clause + 1]):
                        for column in range(num_columns):
                            any_of[column] |= holds[members[i], column]
                    for column in range(num_columns):
                        all_of[predicate, column] &= any_of[column]
        return nonzero(found)

    def open_tests(self, possible, predicates, columns):
        cdef const uint8_t[:, :] holds = possible.view(np.uint8)
        cdef const int64_t[:, ::1] tests_of = self._open_tests
        cdef const int64_t[::1] predicate_of = predicates, column_of = columns
        cdef uint8_t[:, ::1] is_told = np.zeros(possible.shape, np.uint8)
        most = len(predicates) * self._open_tests.shape[1]
        tests, told_columns = np.empty(most, np.int64), np.empty(most, np.int64)
        cdef int64_t[::1] told_test = tests, told_column = told_columns
        cdef Py_ssize_t i, j, num_told = 0
        cdef int64_t test, column
        check_indices(predicate_of, tests_of.shape[0])
        check_indices(column_of, holds.shape[1])
        with nogil:
            for i in range(predicate_of.shape[0]):
                column = column_of[i]
                for j in range(tests_of.shape[1]):
                    test = tests_of[predicate_of[i], j]
                    if test >= 0 and holds[test, column] and not is_told[test, column]:
                        is_told[test, column] = True
                        told_test[num_told], told_column[num_told] = test, column
                        num_told += 1
        return tests[:num_told], told_columns[:num_told]
