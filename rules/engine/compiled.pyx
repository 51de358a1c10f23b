# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: cdivision=True
"""The loops that a call spends its time in, compiled: `kernels.py` says when they are used.

Every class here is one that uses NumPy, with its costliest methods done token by token instead. It
is in the .pxi file beside the .py file of the other, which says what the methods take and return.
Results are the same; only the last digit of a sum can differ.

Nothing is checked where it is indexed. Of a block its slots, rows and width are checked on the way
in, and all else in it follows from those; so are indices of tests, rules and rows. Columns, and the
tests of a predicate, are those that a class was made with.
"""

from libc.math cimport NAN, fmax, fmin
from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.string cimport memchr, memcpy, memset

import numpy as np

from saeguard.rules.engine import averages, evidence, predicates, runs, windowed
from saeguard.rules.engine.blocks import nonzero


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


include "averages.pxi"
include "evidence.pxi"
include "aggregates.pxi"
include "windowed.pxi"
include "predicates.pxi"
include "runs.pxi"
