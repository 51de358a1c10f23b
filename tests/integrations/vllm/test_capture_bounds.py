"""What a capture watches, and how much it takes at once; no engine needed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from planted import Planted

from saeguard.integrations.vllm.capture.bounds import LONGEST, Bounds, Disk, DiskFullError
from saeguard.integrations.vllm.capture.data import Item
from saeguard.integrations.vllm.capture.engine import write_config
from saeguard.integrations.vllm.capture.parts import cut
from saeguard.integrations.vllm.capture.shards import Answer, Shards
from saeguard.integrations.vllm.capture.watched import watched
from saeguard.monitor.config import load_config
from saeguard.monitor.errors import ConfigError, UnsupportedError
from saeguard.monitor.rulebook import load_rulebook
from saeguard.monitor.watchlist import encode
from saeguard.rules import load_rules
from saeguard.rules.recordings.recording import recorded_columns

ORGANISM = Path(__file__).resolve().parents[3] / "examples" / "organism"
MODEL, RULES = str(ORGANISM / "artifacts" / "model"), str(ORGANISM / "rules.yaml")


LAYERS = ["blocks.1.hook_resid_post", "blocks.4.hook_resid_post"]


@pytest.mark.parametrize(("rules", "hook_points"), [([], LAYERS), ([RULES], []), ([RULES], LAYERS)])
def test_a_monitor_takes_what_is_configured_and_no_rule_of_the_users(tmp_path, rules, hook_points):
    watch = watched(rules, hook_points, MODEL)
    book = load_rulebook(load_config(write_config(tmp_path, watch)))
    features = load_rules(rules).used_features() if rules else ()
    coordinates = [f"{hook_point}/{i}" for hook_point in hook_points for i in range(192)]
    assert {*watch.columns} == {*features, *coordinates}
    assert {*book.watchlist.columns} == {*watch.columns, "saeguard_silent"}
    assert [rule.name for rule in book.ruleset.rules] == ["saeguard_silent"]


def test_identity_rows_score_each_coordinate_as_it_is(tmp_path):
    watch = watched([RULES], ["blocks.2.hook_resid_post"], MODEL)
    (site,) = watch.compile(tmp_path).sites
    x = np.random.default_rng(0).normal(size=(5, 192)).astype(np.float32)
    scores = encode(x, site)
    names = [feature.name for feature in site.features]
    order = [names.index(f"blocks.2.hook_resid_post/{i}") for i in range(192)]
    assert (scores[:, order] == x).all()
    assert "deceit_probe" in names
    np.testing.assert_allclose(encode(site.golden_inputs, site), site.golden_scores, rtol=1e-6)


@pytest.mark.parametrize(
    ("hook_point", "message"),
    [
        ("blocks.2.hook_nothing", "cannot be watched"),
        ("router.2", "only what is as wide as the residual stream"),
        ("blocks.2.attn.hook_z", "only what is as wide as the residual stream"),
    ],
)
def test_a_hook_point_that_cannot_be_captured_is_refused(hook_point, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message):
        watched([], [hook_point], MODEL)


@pytest.mark.parametrize("num_columns", [1, 10, 192, 1152, 4096, 65_536])
def test_a_batch_never_has_more_than_a_record_and_the_monitors_table_hold(num_columns):
    bounds = Bounds(num_columns)
    assert 1 <= bounds.record_tokens <= LONGEST
    longest = bounds.num_bytes(10**9)
    assert longest <= 512 << 20
    assert not bounds.has_room(2, 2 * (128 << 20))
    assert bounds.has_room(bounds.max_requests, 1000)
    assert bounds.max_requests == (256 if num_columns <= 16 else 64)
    if num_columns <= 10:
        assert bounds.record_tokens == LONGEST


def test_requests_are_cut_in_their_order_into_parts_that_fit():
    items = [Item(str(i), prompt="x" * (40_000 if i % 7 == 0 else 30)) for i in range(1000)]
    for num_columns in (1, 384, 10_000):
        bounds = Bounds(num_columns)
        parts = cut(items, bounds, max_tokens=256)
        assert [item for part in parts for item in part.items] == items
        assert max(len(part.items) for part in parts) <= bounds.max_requests
        assert len(parts) >= 1000 / bounds.max_requests
    assert len(parts) > 50  # 10,000 columns have no room for 64
    assert str(parts[0]) == f"requests '0' to '{len(parts[0].items) - 1}'"


def test_a_full_disk_is_refused_before_it_is_full(tmp_path):
    disk = Disk(tmp_path, 10 << 30)
    disk.check(9 << 30, 1 << 20)
    with pytest.raises(DiskFullError, match=r"holds 9\.90 GiB, and 0\.50 GiB more would be over"):
        disk.check(int(9.9 * 2**30), 1 << 29)
    with pytest.raises(DiskFullError, match="its disk has"):
        Disk(tmp_path, 10**18).check(0, 10**17)


def test_what_is_done_is_known_without_reading_scores(tmp_path):
    planted = Planted(tmp_path)
    for _ in range(5):
        planted.add(True)
    (path,), _ = planted.write()
    columns = planted.requests[0].columns
    assert recorded_columns(path) == {f"r{i}": columns for i in range(5)}
    assert Shards(tmp_path).done(columns[::-1]) == {f"r{i}" for i in range(5)}
    with pytest.raises(ConfigError, match="recorded with other features or hook points"):
        Shards(tmp_path).done(columns[1:])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError, match="cut short"):
        Shards(tmp_path).done(columns)
    for damaged in (b"", b"12345678", b"\xff" * 100, json.dumps({}).encode() * 9):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match="cannot be read as a recording"):
            Shards(tmp_path).done(columns)


def test_answers_of_a_capture_that_was_killed_before_their_scores_are_given_anew(tmp_path):
    planted = Planted(tmp_path / "planted")
    planted.add(True)
    shards = Shards(tmp_path / "acts")
    answers = [Answer(f"r{i}", "yes", "stop", 3, 2) for i in range(3)]
    shards.add(planted.requests, answers[:1])
    path = shards.directory / "answers.jsonl"
    with path.open("ab") as file:  # of the batch behind it
        file.write(msgspec.json.encode(answers[1]) + b"\n" + msgspec.json.encode(answers[2])[:-9])
    again = Shards(tmp_path / "acts")
    assert again.done(planted.requests[0].columns) == {"r0"}
    again.add(planted.requests, answers[1:])
    lines = path.read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=Answer).id for line in lines] == ["r0", "r1", "r2"]
