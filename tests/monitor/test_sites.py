"""What can be watched has one name, which says where it is; other names are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_models import make_watchlist

from saeguard.monitor import watchlist as wl
from saeguard.monitor.errors import UnsupportedError
from saeguard.monitor.sites import HookPoint

NAMES = [
    "blocks.12.hook_resid_pre",
    "blocks.12.attn.hook_z",
    "blocks.12.hook_attn_out",
    "blocks.12.hook_resid_mid",
    "blocks.12.mlp.hook_in",
    "blocks.12.hook_mlp_out",
    "blocks.12.hook_resid_post",
    "router.12",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_survives_being_read(name: str):
    assert str(HookPoint.parse(name)) == name
    assert HookPoint.parse(name).layer == 12


def test_every_name_is_another_place():
    assert len({HookPoint.parse(name) for name in NAMES}) == len(NAMES)


def test_what_gemma_scope_2_calls_the_input_of_its_transcoders_is_what_the_mlp_reads():
    assert HookPoint.parse("blocks.3.hook_mlp_in") == HookPoint(3, "mlp_in")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "blocks.1.ln2.hook_normalized",
        "blocks.1.attn.hook_q",
        "blocks.x.hook_resid_post",
        "blocks.-1.hook_resid_post",
        "blocks.1.hook_resid_post.1",
        "blocks.1.router.1",
        "blocks.{}.hook_resid_post",
        "router.1.2",
    ],
)
def test_another_name_is_refused_with_those_that_there_are(name: str):
    with pytest.raises(UnsupportedError, match=r"can.* blocks\.L\.hook_resid_mid") as refused:
        HookPoint.parse(name)
    assert repr(name) in refused.value.message


def test_a_watchlist_of_a_site_that_is_not_known_is_refused_by_its_name(tmp_path: Path):
    wl.save(make_watchlist([1]), tmp_path / "w")
    with safe_open(tmp_path / "w", framework="numpy") as file:
        header = json.loads(file.metadata()["saeguard"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header["sites"][0]["hook_point"] = "blocks.1.hook_dream"
    save_file(tensors, tmp_path / "w", metadata={"saeguard": json.dumps(header)})
    with pytest.raises(wl.WatchlistError, match=r"blocks\.1\.hook_dream.*newer"):
        wl.load(tmp_path / "w")
