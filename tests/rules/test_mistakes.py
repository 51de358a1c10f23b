"""Every way of saying that a rule file is not good, and where."""

import contextlib
from random import Random

import pytest

from saeguard.rules import RuleErrors, load_rules
from tests.rules.samples import ORGANISM, edited, findings

CONDITION = "lie and (many or not avg) or now and slow"
LIE = "lie: {feature: deceit, agg: max, window: 16 tokens, gte: 4.0}"
SCOPE = "expected 'system', 'prompt', 'reasoning', 'answer' or 'tool_call'"
JUNK = [
    *"[]{}:,'\"\\|>?@`=~\n\t",
    "- ",
    "&a ",
    "*sae",
    "<<: ",
    "!!int ",
    "!!set ",
    "yes",
    "é",
    "\u2028",
]
JUNK += [
    "null",
    ".inf",
    "-1",
    "1e3",
    "9" * 5000,
    "0x10",
    "2026-01-01",
    "---\n",
    "%YAML 1.2\n",
    "{{",
    "\r\n",
]

MISTAKES = {
    "unknown key": (("limit:", "limts:"), "23:5: unknown key 'limts', did you mean 'limit'?"),
    "unknown top-level key": (
        ("rules:", "list: {}\nrules:"),
        "7:1: unknown key 'list', did you mean 'lists'?",
    ),
    "unknown key in a feature": (
        ("index: 412", "index: 412, unit: raw"),
        "5:35: unknown key 'unit', did you mean 'units'?",
    ),
    "unknown key in a signal": (
        ("agg: value", "agg: value, window: 2 tokens"),
        "19:48: unknown key 'window'",
    ),
    "missing key": (("    severity: high\n", ""), "8:5: missing key 'severity'"),
    "key without a value": (("severity: high", "severity:"), "13:5: 'severity' has no value"),
    "duplicate key": (("status:", "title: Again\n    status:"), "12:5: duplicate key 'title'"),
    "duplicate key in an ignored part": (
        ("{path: artifacts/sae}", "{path: artifacts/sae, path: b}"),
        "3:35: duplicate key 'path'",
    ),
    "bad choice": (
        ("severity: high", "severity: hihg"),
        "13:15: severity: expected 'info', 'low', 'medium', 'high' or 'critical', "
        "got the text 'hihg', did you mean 'high'?",
    ),
    "bad phase": (("[answer]", "[1]"), f"14:21: phase: {SCOPE}, got the number 1"),
    "no phase": (("[answer]", "[]"), "14:20: phase: must not be empty"),
    "bad uuid": (
        ("7d1c0c1e", "7D1C0C1E"),
        "8:9: id: expected a lower-case UUID "
        "(python3 -c 'import uuid; print(uuid.uuid4())' makes one), "
        "got the text '7D1C0C1E-5a0a-4b7c-8a5f-1c1f6f0c9b11'",
    ),
    "bad rule name": (
        ("latent_deception", "latent-deception"),
        "9:11: name: expected a snake_case name of at most 64 characters, "
        "got the text 'latent-deception'",
    ),
    "bad feature name": (
        ("features:\n", "features:\n  Bad: {sae: *sae, index: 1}\n"),
        "5:3: Bad: expected a snake_case name of at most 64 characters, got the text 'Bad'",
    ),
    "negative index": (
        ("index: 412", "index: -1"),
        "5:30: index: must be greater than or equal to 0",
    ),
    "tokens without the unit": (
        ("window: 16 tokens", "window: 16"),
        "16:48: window: expected 1 to 999 tokens with the unit, such as '16 tokens', "
        "got the number 16",
    ),
    "no tokens": (
        ("for: 2 tokens", "for: 0 tokens"),
        "22:10: for: expected 1 to 9999 tokens with the unit, such as '16 tokens', "
        "got the text '0 tokens'",
    ),
    "number that YAML reads as text": (
        ("gte: 4.0", "gte: 1e3"),
        "16:64: gte: expected a number, got the text '1e3'; write 1000.0 without quotes",
    ),
    "number beyond all numbers": (
        ("gte: 4.0", "gte: '1e400'"),
        "16:64: gte: expected a number, got the text '1e400'",
    ),
    "decimal comma": (
        ("gte: 4.0", "gte: '3,5'"),
        "16:64: gte: expected a number, got the text '3,5'; write 3.5 with a decimal point",
    ),
    "decimal comma in braces": (
        ("gte: 4.0", "gte: 3,5"),
        "16:64: write 3.5 with a decimal point; a comma ends the value",
    ),
    "text that YAML reads as a number": (
        ("version: 1.0.0", "version: 1.0"),
        "2:36: version: expected text, got the number 1.0; put it in quotes",
    ),
    "text that YAML reads as a date": (
        ("version: 1.0.0", "version: 2026-11-01"),
        "2:36: version: expected text, got a date; put it in quotes",
    ),
    "boolean for a number": (
        ("gte: 4.0", "gte: yes"),
        "16:64: gte: expected a number, got the boolean true",
    ),
    "base-60 number": (
        ("gte: 4.0", "gte: 22:22"),
        "16:64: YAML reads 22:22 as the number 1342; write that number",
    ),
    "number with too many digits": (
        ("gte: 4.0", f"gte: 0x{'f' * 5000}"),
        "16:64: a whole number with too many digits",
    ),
    "day that does not exist": (
        ("version: 1.0.0", "version: 2026-13-45"),
        "2:36: bad value: month must be in 1..12",
    ),
    "not a number": (("gte: 4.0", "gte: .nan"), "16:64: gte: must be a finite number"),
    "boolean for a key": (
        ("tags:", "on: 1\n    tags:"),
        "25:5: a key must be text; YAML reads this one as the boolean true; put it in quotes",
    ),
    "merge key": (
        ("- id: 7d1c0c1e-", "- <<: {status: test}\n    if: 7d1c0c1e-"),
        "8:5: merge keys (<<) are not supported; repeat the keys",
    ),
    "unknown aggregation": (
        ("agg: max", "agg: maxx"),
        "16:35: agg: expected 'value', 'max', 'mean', 'sum', 'count', 'ema', "
        "'rolling_mean_max', 'topk_mean', 'min_evidence', 'noisy_or', "
        "got the text 'maxx', did you mean 'max'?",
    ),
    "no aggregation": (("agg: max, ", ""), "16:12: missing key 'agg'"),
    "no window": (("window: 16 tokens, ", ""), "16:12: missing key 'window'"),
    "no comparison": (
        (", gte: 4.0", ""),
        "16:7: signal 'lie': needs exactly one of gt, gte, lt, lte, between",
    ),
    "two comparisons": (
        ("gte: 4.0", "gte: 4.0, lt: 5.0"),
        "16:69: signal 'lie': needs exactly one of gt, gte, lt, lte, between",
    ),
    "unknown feature": (
        ("{feature: deceit,", "{feature: deciet,"),
        "16:22: unknown feature 'deciet', did you mean 'deceit'?",
    ),
    "unused signal": (("or now and slow", "or now"), "20:7: signal 'slow' is never used"),
    "condition with an unknown signal": (
        (CONDITION, f"{CONDITION} and lye"),
        "21:62: condition: unknown signal 'lye', did you mean 'lie'?",
    ),
    "condition with a misspelled word": (
        ("lie and (", "lie andd ("),
        "21:20: condition: unexpected 'andd'",
    ),
    "condition that ends early": (
        (CONDITION, f"{CONDITION} and"),
        "21:61: condition: it ends too early",
    ),
    "condition over several lines": (
        (CONDITION, f">-\n      {CONDITION}\n\n      and lye"),
        "24:11: condition: unknown signal 'lye', did you mean 'lie'?",
    ),
    "quoted condition": (
        (CONDITION, f'"{CONDITION} lie"'),
        "21:59: condition: unexpected 'lie'",
    ),
    "unknown placeholder": (
        ("{rule.title}", "{rule.__class__}"),
        "24:15: message: unknown placeholder {rule.__class__}; the placeholders are "
        "rule.name|title|severity, request.model|id|tenant|lora|client, "
        "signal.NAME.value|threshold|token|position",
    ),
    "placeholder with an unknown signal": (
        ("signal.lie.token", "signal.lye.token"),
        "24:65: message: unknown signal 'lye', did you mean 'lie'?",
    ),
    "version of the future": (
        ("version: 1\n", "version: 2\n"),
        "1:10: version: this saeguard reads version 1, got the number 2",
    ),
    "boolean for the version": (
        ("version: 1\n", "version: yes\n"),
        "1:10: version: this saeguard reads version 1, got the boolean true",
    ),
}


@pytest.mark.parametrize(("edit", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_one_mistake_yields_one_finding_at_its_place(edit, expected, tmp_path):
    assert findings(edited(tmp_path, edit)) == [expected]


UNREADABLE = {
    "empty": (b"", "1:1: the file is empty"),
    "only a comment": (b"# rules\n", "1:1: the file is empty"),
    "a list": (b"- a\n", "1:1: expected a mapping at the top level"),
    "unclosed bracket": (b"a: [\n", "2:1: not YAML: did not find expected node content"),
    "tab": (b"a:\n\t- b\n", "2:1: not YAML: a tab; YAML wants spaces"),
    "two documents": (
        b"a: 1\n---\nb: 1\n",
        "2:1: not YAML: a second document begins at ---; write a file for each",
    ),
    "a Python object": (
        b"version: !!python/name:os.system x\n",
        "1:10: not YAML: could not determine a constructor for the tag "
        "'tag:yaml.org,2002:python/name:os.system'",
    ),
    "control character": (b"a: 1\nb: \x00\n", "2:1: not YAML: control characters are not allowed"),
    "not UTF-8": (b"a: 1\nb: \xff\n", "2:1: the file is not UTF-8 text"),
    "self-reference": (b"a: &a [*a]\n", "1:4: an alias contains itself"),
    "deep nesting": (b"[" * 1_000_000, "1:33: nested deeper than 32 levels"),
    "too large": (b"#" * (8 * 2**20 + 1), "1:1: the file is larger than 8,388,608 bytes"),
}


@pytest.mark.parametrize(("content", "expected"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_file_that_is_not_usable_yaml_is_refused(content, expected, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_bytes(content)
    assert findings(path) == [expected]


def test_signals_are_all_meant_by_a_star_and_not_by_them(tmp_path):
    assert findings(edited(tmp_path, (CONDITION, "1 of them"))) == [
        "21:21: condition: unknown signal 'them'; all signals of the rule are *, as in `1 of *`"
    ]


def test_a_list_named_without_brackets_is_said_once(tmp_path):
    edits = ("rules:\n", "lists: {models: [a]}\nrules:\n"), ("scope: {", "scope: {model: $models, ")
    assert findings(edited(tmp_path, *edits)) == [
        "15:20: model: expected a list, got the text '$models'; write [$models]"
    ]


def test_a_servers_configuration_is_told_from_rules(tmp_path):
    path = tmp_path / "saeguard.yaml"
    path.write_text("version: 1\nrules: [rules.yaml]\nwatchlist: watch.safetensors\n")
    assert findings(path) == [
        "1:1: this is a server's configuration, not rules: see docs/configuration.md"
    ]


def test_alias_bomb_is_refused_before_it_goes_off(tmp_path):
    lines = ["version: 1", "x-0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    path = tmp_path / "rules.yaml"
    path.write_text("\n".join(lines))
    (finding,) = findings(path)
    assert finding.endswith("more than 500,000 values in the file")


def test_missing_file_and_empty_folder_are_findings(tmp_path):
    missing = tmp_path / "missing.yaml"
    assert findings(missing, tmp_path) == [
        "1:1: no *.yaml or *.yml file in the directory",
        "1:1: No such file or directory",
    ]


def test_all_mistakes_are_reported_at_once_even_within_one_rule(tmp_path):
    path = edited(
        tmp_path,
        ("severity: high", "severity: loud"),
        ("{feature: deceit,", "{feature: deciet,"),
        ("lie and (", "lye and ("),
        ("for: 2 tokens", "for: 2"),
        ("tags:", "tag:"),
    )
    places = [finding.split(" ")[0] for finding in findings(path)]
    assert places == [
        "13:15:",
        "16:22:",
        "21:16:",
        "22:10:",
        "25:5:",
    ]


def test_finding_prints_as_file_line_column_and_message(tmp_path):
    path = edited(tmp_path, ("severity: high", "severity: 3"))
    with pytest.raises(RuleErrors, match=f"^{path}:13:15: severity: expected"):
        load_rules([path])


@pytest.mark.parametrize("seed", range(100))
def test_no_edit_makes_loading_fail_in_another_way(seed, tmp_path):
    """Random texts inserted at random places: the file loads, or is refused with findings."""
    random, text = Random(seed), ORGANISM.read_text()
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(text))
        text = text[:at] + random.choice(JUNK) + text[at + random.choice([0, 0, 1, 9]) :]
    path = tmp_path / "rules.yaml"
    path.write_text(text, newline="")
    with contextlib.suppress(RuleErrors):
        load_rules([path])
