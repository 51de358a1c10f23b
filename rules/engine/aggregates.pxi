# The formulas of `aggregates.py`, of one window at a time.

cdef enum Kind:
    AVERAGE, SUM, MEAN, COUNT, RANK, TOP_MEAN, NOISY_OR, ROLLING_MEAN

cdef struct Parameters:  # as the records of `Windowed`
    int64_t kind, span, column, k, rolling
    double over, zero, rise

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


cdef double value_of(
    const Parameters* of, float* x, Py_ssize_t size, double* scratch
) noexcept nogil:
    """What an aggregate makes of a window.

    Args:
        of: the aggregate; one without a window is NaN.
        x: [size], newest first, NaN where not observed. Overwritten.
        scratch: [2 (size + 1)]
    """
    if of.kind == ROLLING_MEAN:
        return rolling_mean_max(x, size, of.rolling, scratch)
    size = keep_observed(x, size)
    if size < of.k or of.kind == AVERAGE:
        return NAN
    if of.kind == SUM:
        return total(x, size)
    if of.kind == MEAN:
        return total(x, size) / size
    if of.kind == COUNT:
        return count(x, size, of.over)
    if of.kind == NOISY_OR:
        return noisy_or(x, size, of.zero, of.rise)
    keep_largest(x, size, of.k)
    return x[of.k - 1] if of.kind == RANK else total(x, of.k) / of.k


cdef Py_ssize_t keep_observed(float* x, Py_ssize_t size) noexcept nogil:
    """Move them to the front: how many."""
    cdef Py_ssize_t i, num_kept = 0
    for i in range(size):
        x[num_kept] = x[i]
        num_kept += x[i] == x[i]
    return num_kept


cdef void keep_largest(float* x, Py_ssize_t size, Py_ssize_t k) noexcept nogil:
    """Move the k largest to the front, in descending order."""
    cdef Py_ssize_t i, place
    cdef float new
    for i in range(size):
        new = x[i]
        place = min(i, k - 1)
        if place < i and new <= x[place]:
            continue
        while place > 0 and x[place - 1] < new:
            x[place] = x[place - 1]
            place -= 1
        x[place] = new


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


cdef double noisy_or(const float* x, Py_ssize_t size, double zero, double rise) noexcept nogil:
    cdef double absent = 1
    cdef Py_ssize_t i
    for i in range(size):
        absent *= 1 - fmin(fmax((x[i] - zero) / rise, 0), 1)
    return 1 - absent


cdef double rolling_mean_max(
    const float* x, Py_ssize_t size, Py_ssize_t rolling, double* totals
) noexcept nogil:
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
