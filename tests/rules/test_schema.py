"""The JSON Schema and the loader agree."""

import jsonschema
import pytest
import yaml

from saeguard.rules import RuleErrors, load_rules
from saeguard.rules.schema import json_schema
from tests.rules.samples import ORGANISM, edited

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def test_schema_is_itself_valid():
    VALIDATOR.check_schema(VALIDATOR.schema)


def test_schema_accepts_the_example():
    VALIDATOR.validate(yaml.safe_load(ORGANISM.read_text()))


@pytest.mark.parametrize(
    "edit",
    [
        ("window: 16 tokens", "window: 16"),
        ("window: 16 tokens", "window: 0 tokens"),
        ("window: 16 tokens", "window: 16 minutes"),
        ("window: 16 tokens, ", ""),
        ("gte: 4.0", "gte: 4.0, lt: 5"),
        ("gte: 4.0", "gte: yes"),
        ("gte: 4.0", "gte:  null"),
        (", gte: 4.0", ""),
        ("agg: max", "agg: most"),
        ("severity: high", "severity: loud"),
        ("7d1c0c1e", "7D1C0C1E"),
        ("limit:", "limits:"),
        ("index: 412", "index: -1"),
        ("[answer]", "[]"),
        ("lie:", "Lie:"),
        ("version: 1\n", "version: 2\n"),
        ("version: 1.0.0", "version: 1.0"),
    ],
)
def test_schema_and_loader_refuse_the_same(edit, tmp_path):
    path = edited(tmp_path, edit)
    with pytest.raises(RuleErrors):
        load_rules([path])
    assert not VALIDATOR.is_valid(yaml.safe_load(path.read_text()))
