"""A watchlist file says what it holds, and is refused once it has been changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import make_watchlist

from saeguard.monitor import watchlist as wl
from saeguard.monitor.sites import HookPoint


def test_it_survives_a_file(tmp_path: Path):
    watchlist = make_watchlist([2, 0])
    wl.save(watchlist, tmp_path / "w")
    loaded = wl.load(tmp_path / "w")
    assert loaded.digest == watchlist.digest
    assert loaded.columns == watchlist.columns
    assert [site.hook_point.layer for site in loaded.sites] == [0, 2]
    for site, original in zip(loaded.sites, watchlist.sites, strict=True):
        np.testing.assert_array_equal(site.weight, original.weight)
        np.testing.assert_array_equal(site.golden_scores, original.golden_scores)


def test_the_same_rows_have_the_same_digest_and_others_another():
    assert make_watchlist([1]).digest == make_watchlist([1]).digest
    assert make_watchlist([1]).digest != make_watchlist([2]).digest


def test_a_changed_file_is_refused(tmp_path: Path):
    wl.save(make_watchlist([1]), tmp_path / "w")
    content = bytearray((tmp_path / "w").read_bytes())
    content[-3] ^= 1
    (tmp_path / "w").write_bytes(bytes(content))
    with pytest.raises(wl.WatchlistError, match="changed after it was made"):
        wl.load(tmp_path / "w")


@pytest.mark.parametrize("content", [b"", b"no", b"\x10\0\0\0\0\0\0\0{}              "])
def test_what_is_no_watchlist_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(wl.WatchlistError, match="watchlist"):
        wl.load(tmp_path / "w")


@pytest.mark.parametrize("num_bytes", [4, 100, 2000, 5000])
def test_a_file_cut_short_is_refused(tmp_path: Path, num_bytes: int):
    wl.save(make_watchlist([1]), tmp_path / "w")
    content = (tmp_path / "w").read_bytes()
    (tmp_path / "w").write_bytes(content[:num_bytes])
    with pytest.raises(wl.WatchlistError, match="cannot be read"):
        wl.load(tmp_path / "w")


def test_rows_that_do_not_fit_their_features_are_refused(tmp_path: Path):
    watchlist = make_watchlist([1])
    site = replace(watchlist.sites[0], bias=np.zeros(3, np.float32))
    wl.save(wl.build(watchlist.d_model, [site]), tmp_path / "w")
    with pytest.raises(wl.WatchlistError, match=r"bias of layer 1 is not of shape \(5,\)"):
        wl.load(tmp_path / "w")


def test_a_missing_file_says_how_to_make_it(tmp_path: Path):
    with pytest.raises(wl.WatchlistError, match="saeguard compile"):
        wl.load(tmp_path / "absent")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(wl.WatchlistError, match="cannot be written"):
        wl.save(make_watchlist([1]), tmp_path)
    assert list(tmp_path.parent.glob("*.partial")) == []


def test_encode_keeps_nan_and_gates_strictly():
    site = make_watchlist([0], num_features=2).sites[0]
    site = wl.Site(
        HookPoint(0), site.features, np.eye(2, 64, dtype=np.float32), np.zeros(2, np.float32),
        np.array([1.0, -np.inf], np.float32), site.golden_inputs, site.golden_scores,
    )  # fmt: skip
    x = np.zeros((3, 64))
    x[0, :2] = [1.0, -3.0]  # at the threshold: closed; a probe has no gate
    x[1, :2] = [1.5, 0.5]
    x[2, :2] = [np.nan, 1.0]  # spreads over the row, as in any matrix product
    np.testing.assert_array_equal(wl.encode(x, site), [[0.0, -3.0], [1.5, 0.5], [np.nan, np.nan]])
