"""A rule's tags are those of the lists, or a site's own."""

from collections import Counter

import jsonschema
import pytest

from saeguard.rules import RuleErrors, load_rules
from saeguard.rules.loading.schema import json_schema
from saeguard.rules.tags import known_tags, tag_error, tag_lists
from tests.rules.samples import edited

WRONG = {
    "deception": "unknown tag 'deception', did you mean 'harm.deception'?; tags are namespace.tag",
    "harm.decepton": "did you mean 'harm.deception'?; harm is saeguard's own list",
    "owasp-llm.llm07": "did you mean 'owasp-llm-2026.llm07'?; tags are namespace.tag, of owasp-llm",
    "owasp-llm-2025.llm11": "owasp-llm-2025 is OWASP Top 10 for LLM Applications 2025",
    "atlas.AML.T0054": "did you mean 'atlas.aml-t0054'?; atlas is MITRE ATLAS 2026.09",
    "atlas.t0051.001": "did you mean 'atlas.aml-t0051.001'?",
    "site.": "is not like site.my-tag",
    "site.Mine": "is not like site.my-tag",
}


def test_lists_have_the_number_of_tags_of_their_editions():
    sizes = {name: len(each.tags) for name, each in tag_lists().items()}
    assert sizes.pop("harm") > 10
    assert sizes == {"owasp-llm-2025": 10, "owasp-llm-2026": 10, "atlas": 208}


def test_atlas_edition_has_120_techniques_and_88_of_their_sub_techniques():
    atlas = tag_lists()["atlas"].tags
    parents = Counter("." in tag for tag in atlas)
    assert parents == {False: 120, True: 88}
    assert {tag.partition(".")[0] for tag in atlas} <= set(atlas)


def test_same_number_means_another_thing_in_another_edition():
    assert tag_lists()["owasp-llm-2025"].tags["llm07"] == "System Prompt Leakage"
    assert tag_lists()["owasp-llm-2026"].tags["llm07"] == "Misinformation"


@pytest.mark.parametrize("tag", [*known_tags(), "site.mine", "site.team-a.case_4"])
def test_known_tags_and_those_of_a_site_are_right(tag):
    assert tag_error(tag) is None


@pytest.mark.parametrize("tag", WRONG)
def test_unknown_tag_is_refused_where_it_is_written_with_the_likely_one(tag, tmp_path):
    path = edited(tmp_path, ("[harm.deception]", f"[harm.refusal, {tag}]"))
    with pytest.raises(RuleErrors) as caught:
        load_rules([path])
    (error,) = caught.value.errors
    line = path.read_text().splitlines()[error.line - 1]
    assert line[error.column - 1 :].startswith(tag)
    assert WRONG[tag] in error.message


@pytest.mark.parametrize(
    ("tag", "is_right"),
    [("harm.deception", True), ("site.x", True)] + [(tag, False) for tag in WRONG],
)
def test_schema_completes_tags_and_refuses_the_same_ones(tag, is_right):
    schema = json_schema()["$defs"]["ConditionRuleEntry"]["properties"]["tags"]
    assert jsonschema.Draft202012Validator(schema).is_valid([tag]) is is_right
