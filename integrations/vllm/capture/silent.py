"""The one rule of a capture's monitor. A monitor has to have a rule, and a rule a feature; but a
capture only records. What the user's rules would do (raise alerts, end requests) it must not do,
and where a head's score is made later they would read 0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.config import read_rules
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.watchlist import Site

SILENT = "saeguard_silent"
"""Its feature, which is always 0."""
FILE = "silent.yaml"


def write_silent_rule(directory: Path, hook_point: HookPoint, num_inputs: int) -> Site:
    """Write `FILE`: a rule that never matches, of a probe that reads nothing.

    Args:
        num_inputs: as many as are read at the hook point.

    Returns:
        What is to be watched for it.
    """
    probe, path = directory / "silent.safetensors", directory / FILE
    header = {"hook_point": str(hook_point), "names": [SILENT]}
    save_file(
        {"weight": np.zeros((1, num_inputs), np.float32), "bias": np.zeros(1, np.float32)},
        probe,
        metadata={"saeguard_probe": json.dumps(header)},
    )
    rule: dict[str, Any] = {
        "id": "8f6f2f0a-8a64-4d0e-9a4b-3c1f6f1f9c55",
        "name": SILENT,
        "title": "Never",
        "status": "test",
        "severity": "info",
        "signals": {"never": {"feature": SILENT, "agg": "value", "gt": 1.0}},
        "condition": "never",
        "message": "never",
        "tags": ["site.capture"],
        "falsepositives": [],
    }
    document = {
        "version": 1,
        "ruleset": {"name": "capture", "version": "1.0.0"},
        "features": {SILENT: {"probe": {"path": probe.name}, "name": SILENT}},
        "rules": [rule],
    }
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    (site,) = compile_watchlist(read_rules([path])).sites
    return site
