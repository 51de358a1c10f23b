"""The example rule file, edited copies of it, a set of one small rule."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from saeguard.rules import RuleErrors, RuleSet, load_rules

ORGANISM = Path(__file__).with_name("organism.yaml")


def edited(folder: Path, *edits: tuple[str, str], name: str = "rules.yaml") -> Path:
    """A copy of the example in which the first occurrence of each text is replaced."""
    text = ORGANISM.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / name
    path.write_text(text)
    return path


def findings(*paths: Path) -> list[str]:
    """`line:column: message` of everything wrong with the files."""
    with pytest.raises(RuleErrors) as caught:
        load_rules(paths)
    return [f"{error.line}:{error.column}: {error.message}" for error in caught.value.errors]


def one_rule(folder: Path, **keys: Any) -> RuleSet:
    """A rule over the features `a` and `b`; it fires on answer tokens where `a` is above 1.

    A key that is None is left out.
    """
    rule = {
        "id": "00000000-0000-0000-0000-000000000001",
        "name": "the_rule",
        "title": "The rule",
        "status": "test",
        "severity": "low",
        "scope": {"phase": ["answer"]},
        "signals": {"s": {"feature": "a", "agg": "value", "gt": 1.0}},
        "condition": "s",
    }
    data = {
        "version": 1,
        "ruleset": {"name": "one", "version": "1"},
        "features": {name: {"sae": {"path": "sae"}, "index": 0} for name in ("a", "b")},
        "rules": [{key: value for key, value in (rule | keys).items() if value is not None}],
    }
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_rules([path])
