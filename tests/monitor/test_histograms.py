"""Values are counted in the bucket that Prometheus would look for them in."""

from __future__ import annotations

import pytest

from saeguard.monitor.histograms import Histogram


def test_a_value_counts_in_the_first_bucket_whose_bound_it_does_not_exceed():
    histogram = Histogram([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 2.0, 2.5, 100.0):
        histogram.add(value)
    values = histogram.read()
    assert values.counts == (2, 2, 2)
    assert values.cumulative == [2, 4, 6]
    assert values.count == 6
    assert values.sum == pytest.approx(107.5)


def test_what_a_clock_that_was_set_back_makes_negative_counts_as_nothing():
    histogram = Histogram([1.0])
    histogram.add(-5.0)
    values = histogram.read()
    assert (values.counts, values.sum) == ((1, 0), 0.0)


def test_what_was_read_stays_as_it_is():
    histogram = Histogram([1.0])
    before = histogram.read()
    histogram.add(0.5)
    assert before.count == 0
