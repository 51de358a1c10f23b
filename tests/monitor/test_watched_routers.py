"""Experts of routers on their way from rules to a watchlist, and rules that have come to differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from expert_rules import rules_on

from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.rulebook import Rulebook

LAWYER = {"router": {"layer": 3}, "expert": 7}
FEATURES: dict[str, dict[str, Any]] = {
    "lawyer": LAWYER,
    "lawyer_logit": {**LAWYER, "units": "logit"},
    "clerk": {"router": {"layer": 1}, "expert": 0},
}


def test_each_expert_is_one_input_of_its_layers_router(tmp_path: Path):
    wl.save(compile_watchlist(rules_on(tmp_path, FEATURES)), tmp_path / "w")
    watchlist = wl.load(tmp_path / "w")
    assert watchlist.d_model is None
    assert [str(site.hook_point) for site in watchlist.sites] == ["router.1", "router.3"]
    assert watchlist.columns == ("clerk", "lawyer", "lawyer_logit")
    clerk, lawyer = watchlist.sites
    says = np.array([[0.25, -3.0, *[0.0] * 12, 0.75, 2.0]])  # of experts 0 and 7 of 8
    np.testing.assert_array_equal(wl.encode(says[:, :1], clerk), [[0.25]])
    np.testing.assert_array_equal(wl.encode(says, lawyer), [[0.75, 2.0]])


@pytest.mark.parametrize(
    ("lawyer", "difference"),
    [
        ({**LAWYER, "expert": 8}, "expert 7"),
        ({**LAWYER, "units": "logit"}, "in the units weight"),
        ({"router": {"layer": 2}, "expert": 7}, "of the router router.3"),
        ({"probe": {"path": "probes.safetensors"}}, "of the router router.3"),
    ],
    ids=["expert", "units", "layer", "kind"],
)
def test_rules_that_have_come_to_mean_another_expert_need_another_watchlist(
    lawyer: dict[str, Any], difference: str, tmp_path: Path
):
    watchlist = compile_watchlist(rules_on(tmp_path, FEATURES))
    Rulebook.make(rules_on(tmp_path, FEATURES), watchlist, "saeguard compile")
    changed = rules_on(tmp_path, {**FEATURES, "lawyer": lawyer})
    with pytest.raises(ConfigError, match=f"its lawyer is {difference}"):
        Rulebook.make(changed, watchlist, "saeguard compile")
