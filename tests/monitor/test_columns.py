"""Scores find their columns by name."""

from __future__ import annotations

import numpy as np

from saeguard.monitor.columns import arranged, order_of

SCORES = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)


def test_columns_are_found_by_name_and_what_is_lacking_was_not_observed():
    order = order_of(["calm", "new", "deceit"], ["deceit", "calm"])
    expected = [[2.0, np.nan, 1.0], [4.0, np.nan, 3.0]]
    np.testing.assert_array_equal(arranged(SCORES, order), np.array(expected, np.float32))


def test_a_frame_that_has_none_of_them_has_observed_nothing():
    assert np.isnan(arranged(SCORES, order_of(["new"], ["deceit", "calm"]))).all()
    assert arranged(np.empty((3, 0), np.float32), order_of(["new"], [])).shape == (3, 1)
