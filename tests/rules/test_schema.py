"""The JSON Schema and the loader agree."""

import re
from datetime import date
from pathlib import Path

import jsonschema
import pytest
import yaml

from saeguard.rules import RuleErrors, load_rules
from saeguard.rules.loading.schema import json_schema
from tests.rules.invalid import INVALID
from tests.rules.samples import edited

ROOT = Path(__file__).parents[2]
VALIDATOR = jsonschema.Draft202012Validator(
    json_schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


# What is wrong with a pack without its mapping, and with a mapping without its pack.
INCOMPLETE = ("add a mapping file", "no rules in the file", "unknown rule")


def as_json(value):
    """What an editor checks: YAML's dates are texts there."""
    match value:
        case dict():
            return {key: as_json(each) for key, each in value.items()}
        case list():
            return [as_json(each) for each in value]
        case date():
            return value.isoformat()
    return value


def accepts(text: str) -> bool:
    return VALIDATOR.is_valid(as_json(yaml.load(text, yaml.CSafeLoader)))


def rule_files():
    """All rule files of the repository, and the whole ones in its documents."""
    for path in sorted(ROOT.rglob("*.yaml")):
        text = path.read_text()
        if re.search("^ruleset:", text, re.M):
            yield pytest.param(text, path, id=str(path.relative_to(ROOT)))
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        for number, text in enumerate(re.findall("```yaml\n(.*?)```", path.read_text(), re.S)):
            if re.search("^ruleset:", text, re.M):
                yield pytest.param(text, None, id=f"{path.name}-{number}")


def test_schema_is_itself_valid():
    VALIDATOR.check_schema(VALIDATOR.schema)


def test_editors_show_words_and_no_names_of_classes():
    rule = VALIDATOR.schema["$defs"]["ConditionRuleEntry"]
    assert rule["title"] == "condition rule"
    assert rule["properties"]["for"]["description"].startswith("On how many tokens in a row")


@pytest.mark.parametrize(("text", "path"), rule_files())
def test_schema_and_loader_accept_every_example(text, path, tmp_path):
    assert accepts(text)
    if path is None:
        path = tmp_path / "rules.yaml"
        path.write_text(text)
    assert [each for each in faults(path) if not any(part in each for part in INCOMPLETE)] == []


def faults(path: Path) -> list[str]:
    try:
        load_rules([path])
    except RuleErrors as errors:
        return [str(error) for error in errors.errors]
    return []


@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID.keys())
def test_schema_refuses_what_the_shape_alone_tells_and_nothing_else(wrong):
    assert accepts(wrong.text()) is not wrong.by_shape


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
    assert not accepts(path.read_text())
