"""Rule files on the experts of routers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from saeguard.rules import RuleSet, load_rules


def rules_on(directory: Path, features: dict[str, dict[str, Any]]) -> RuleSet:
    """One rule that reads all of these features."""
    rule = {
        "id": "00000000-0000-4000-8000-000000000001",
        "name": "experts",
        "title": "Experts",
        "status": "test",
        "severity": "info",
        "signals": {name: {"feature": name, "agg": "value", "gt": 0.5} for name in features},
        "condition": "any of *",
    }
    header = {"version": 1, "ruleset": {"name": "experts", "version": "1"}}
    path = directory / "experts.yaml"
    path.write_text(yaml.safe_dump({**header, "features": features, "rules": [rule]}))
    return load_rules([path])
