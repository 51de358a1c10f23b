"""The shorthand for the scores of a feature."""

import numpy as np
import pytest

from saeguard.rules.testing.series import MAX_TOKENS, SeriesError, format_series, parse_series

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ("5", [5]),
        ("0x4 5 5 7", [0, 0, 0, 0, 5, 5, 7]),
        ("9x3", [9, 9, 9]),
        ("1+0.5x4", [1, 1.5, 2, 2.5]),
        ("5-0.5x4", [5, 4.5, 4, 3.5]),
        ("-1-1x2 -2+1x2", [-1, -2, -2, -1]),
        ("_ 1 _x3", [NAN, 1, NAN, NAN, NAN]),
        (".5 1. 1e2 1e-1x2", [0.5, 1, 100, 0.1, 0.1]),
        ("  1\n 2\t3 ", [1, 2, 3]),
    ],
)
def test_a_series_is_read(text, scores):
    np.testing.assert_array_equal(parse_series(text), np.array(scores, np.float32))


def test_what_stands_after_x_is_the_number_of_tokens_also_of_a_ramp():
    assert [len(parse_series(text)) for text in ("3x10", "1+0.5x10", "_x10")] == [10, 10, 10]


@pytest.mark.parametrize(
    ("text", "offset", "message"),
    [
        ("", 0, "an empty series"),
        ("1 2 three", 4, "'three' is not like 5, 0x40, 1+0.5x10, _ or _x3"),
        ("1x", 0, "'1x' is not like"),
        ("0x40,", 0, "'0x40,' is not like"),
        ("1 nan", 2, "'nan' is not like"),
        ("1+2", 0, "a step goes like 1+0.5x10"),
        ("_+1x3", 0, "a step goes like 1+0.5x10"),
        ("1 5x0", 2, "'5x0': x1 to x100000"),
        ("1x99999999999999999999", 0, "x1 to x100000"),
        (f"1 1x{MAX_TOKENS}", 2, "longer than 100,000 tokens"),
        ("1e39", 0, "too large for a score"),
    ],
)
def test_what_is_no_series_is_refused_where_it_stands(text, offset, message):
    with pytest.raises(SeriesError) as caught:
        parse_series(text)
    assert caught.value.offset == offset
    assert message in str(caught.value)


def test_a_written_series_is_read_as_the_same_scores():
    rng = np.random.default_rng(0)
    exponents = rng.integers(-40, 38, 500).astype(np.float64)
    scores = (rng.normal(size=500) * 10.0**exponents).astype(np.float32)
    scores[rng.integers(0, 500, 200)] = 0
    scores[rng.integers(0, 500, 100)] = np.nan
    np.testing.assert_array_equal(parse_series(format_series(scores)), scores)


def test_a_written_series_is_short():
    scores = np.array([0, 0, 0, NAN, NAN, 4.1, 7, 0], np.float32)
    assert format_series(scores) == "0x3 _x2 4.1 7 0"
