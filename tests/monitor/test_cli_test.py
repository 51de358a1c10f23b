"""`saeguard test`: what it runs, what it prints, and how it ends."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from console_script import console_script

RULES = """\
version: 1
ruleset: {name: small, version: "1"}
features: {lie: {sae: {path: sae}, index: 1}}
rules:
  - id: 00000000-0000-0000-0000-000000000001
    name: lying
    title: Lying
    status: test
    severity: high
    signals: {lie: {feature: lie, agg: count, over: 2.0, window: 4 tokens, gte: 2}}
    condition: lie
"""
FIRES = """\
rules: [rules.yaml]
tests:
  - name: two tokens fire
    stream: [{phase: answer, features: {lie: 0 3 3}}]
    expect: [lying]
"""
FAILS = FIRES.replace("0 3 3", "0 3 1").replace("two tokens fire", "it fails")


@pytest.fixture
def saeguard(monkeypatch, capsys, tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "good_test.yaml").write_text(FIRES)
    return console_script(monkeypatch, capsys, tmp_path)


def test_tests_that_pass_are_listed_with_their_times_and_what_they_cover(saeguard):
    code, out, err = saeguard("test", "good_test.yaml")
    header, case, empty, counts, coverage = out.splitlines()
    assert (code, err, header, empty) == (0, "", "good_test.yaml", "")
    status, _, unit, name = case.split(maxsplit=3)
    assert (status, unit, name) == ("ok", "ms", "two tokens fire")
    assert counts.startswith("1 test: 1 ok  (")
    assert coverage == "coverage 100%: 3 of 3 seen"


def test_a_failure_shows_its_place_what_happened_and_how_near_it_was(saeguard, tmp_path):
    (tmp_path / "bad_test.yaml").write_text(FAILS)
    code, out, _ = saeguard("test", "bad_test.yaml")
    lines = [line.strip() for line in out.splitlines()]
    assert code == 1
    assert lines[1].startswith("FAIL")
    assert lines[2] == "bad_test.yaml:5:14: expected 1 alert of lying, got none"
    assert lines[3] == "signal lie was never true: its largest value was 1, it needs >= 2"
    assert "rules.yaml:5:5: lying never alerted" in lines


def test_a_pipe_gets_whole_lines_and_neither_colours_nor_spaces_at_the_end(saeguard, tmp_path):
    name = "a long name " * 20
    (tmp_path / "bad_test.yaml").write_text(FAILS.replace("it fails", name))
    _, out, _ = saeguard("test", "bad_test.yaml")
    assert name.strip() in out
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in out.splitlines())


def test_names_cannot_reach_the_terminal(saeguard, tmp_path):
    evil = FAILS.replace("name: it fails", 'name: "\\x1b[2J\\u202e"')
    (tmp_path / "bad_test.yaml").write_text(evil)
    _, out, _ = saeguard("test", "bad_test.yaml")
    assert "\\x1b[2J\\u202e" in out
    assert not {"\x1b", "\u202e"} & set(out)


def test_a_directory_stands_for_the_test_files_in_and_below_it(saeguard, tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "more_test.yml").write_text(FIRES.replace("[rules", "[../rules"))
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "more_test.yaml").write_text(FAILS)
    (tmp_path / ".hidden_test.yaml").write_text(FAILS)
    (tmp_path / "loud_test.YAML").write_text(FIRES)
    code, out, _ = saeguard("test", ".")
    assert code == 0
    assert [line for line in out.splitlines() if line.lower().endswith(("yaml", "yml"))] == [
        "below/more_test.yml",
        "good_test.yaml",
        "loud_test.YAML",
    ]
    assert "3 tests in 3 files: 3 ok" in out


def test_tests_of_prometheus_rules_are_left_out_of_a_directory(saeguard, tmp_path):
    (tmp_path / "prometheus_test.yaml").write_text("rule_files: [alerts.yaml]\ntests: []\n")
    code, out, _ = saeguard("test", ".")
    assert (code, "prometheus_test.yaml" in out) == (0, False)
    code, out, _ = saeguard("test", "prometheus_test.yaml")  # by name, it is run and said
    assert (code, "unknown key 'rule_files'" in out) == (1, True)


def test_a_file_with_mistakes_does_not_keep_the_others_from_running(saeguard, tmp_path):
    (tmp_path / "bad_test.yaml").write_text(FIRES.replace("expect:", "expct:"))
    code, out, _ = saeguard("test", ".")
    assert code == 1
    assert "  bad_test.yaml:5:5: unknown key 'expct', did you mean 'expect'?" in out.splitlines()
    assert "1 test in 2 files: 1 ok, 1 file with errors" in out


def test_changed_numbers_that_no_test_notices_are_listed(saeguard):
    code, out, _ = saeguard("test", "good_test.yaml", "--mutate")
    lines = out.splitlines()
    assert code == 0
    assert "mutation score 20%: 2 of 10 changed numbers are noticed" in lines
    assert "  rules.yaml:10:15: no test notices lying signals.lie.window 4 -> 3, 5" in lines


def test_nothing_is_mutated_while_a_test_fails(saeguard, tmp_path):
    (tmp_path / "bad_test.yaml").write_text(FAILS)
    code, out, _ = saeguard("test", ".", "--mutate")
    assert code == 1
    assert out.splitlines()[-1] == "no mutation testing: it needs tests that all pass"


@pytest.mark.parametrize(
    ("option", "code", "said"),
    [
        (("--min-coverage", "100%"), 0, ""),
        (("--min-coverage", "90"), 0, ""),
        (("--min-score", "20%"), 0, ""),
        (("--min-score", "21%"), 1, "mutation score 20.0% is below 21.0%\n"),
        (("--min-coverage", "101%"), 2, "not between 0% and 100%"),
        (("--min-coverage", "much"), 2, "'much' is not like 90%"),
    ],
)
def test_a_least_coverage_and_a_least_score_can_be_asked_for(saeguard, option, code, said):
    ended, _, err = saeguard("test", "good_test.yaml", *option)
    assert ended == code
    assert said in err if said else not err


def test_too_little_coverage_fails(saeguard, tmp_path):
    (tmp_path / "good_test.yaml").write_text(
        FIRES.replace("lie: 0 3 3", "lie: 3x2").replace("answer", "prompt").replace("[lying]", "[]")
    )
    code, out, err = saeguard("test", "good_test.yaml", "--min-coverage", "1%")
    assert (code, err) == (1, "coverage 0.0% is below 1.0%\n")
    assert "coverage 0%: 0 of 3 seen" in out


def test_json_holds_tests_coverage_and_mutation(saeguard, tmp_path):
    (tmp_path / "gap_test.yaml").write_text(FAILS.replace("[lying]", "[{rule: lying, todo: true}]"))
    code, out, _ = saeguard("test", ".", "--format", "json", "--mutate")
    report = json.loads(out)
    gap, good = report["files"]
    assert code == 0
    assert report["counts"] == {"ok": 1, "failed": 0, "todo": 1}
    assert good["tests"][0]["name"] == "two tokens fire"
    assert gap["tests"][0]["failures"] == [
        {
            "path": "gap_test.yaml",
            "line": 5,
            "column": 14,
            "message": "expected 1 alert of lying, got none",
            "todo": True,
            "notes": ["signal lie was never true: its largest value was 1, it needs >= 2"],
        }
    ]
    assert report["coverage"] == {"share": 1.0, "seen": 3, "all": 3, "missing": []}
    assert report["mutation"]["all"] == 10
    assert {"rule", "path", "before", "after", "line", "column"} <= report["mutation"]["unnoticed"][
        0
    ].keys()


def test_junit_xml_is_written(saeguard, tmp_path):
    (tmp_path / "bad_test.yaml").write_text(FAILS)
    code, _, _ = saeguard("test", ".", "--junit", "report.xml")
    root = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert code == 1
    assert [(suite.get("name"), suite.get("failures")) for suite in root] == [
        ("bad_test.yaml", "1"),
        ("good_test.yaml", "0"),
    ]


def test_a_report_that_cannot_be_written_is_an_error_of_the_environment(saeguard):
    code, _, err = saeguard("test", ".", "--junit", "nowhere/report.xml")
    assert code == 2
    assert "nowhere/report.xml: No such file or directory" in err


def test_without_test_files_there_is_nothing_to_run(saeguard, tmp_path):
    (tmp_path / "good_test.yaml").unlink()
    code, _, err = saeguard("test", ".")
    assert code == 2
    assert "no *_test.yaml in ." in err


@pytest.mark.parametrize("option", ["--min-coverage", "--min-score"])
def test_a_share_is_not_taken_for_a_percentage(saeguard, option):
    code, out, err = saeguard("test", "good_test.yaml", option, "0.9")
    assert (code, out) == (2, "")
    assert "write 90% or 0.9%, not '0.9'" in err


def test_a_feature_that_no_rule_reads_is_shown_and_fails_nothing(saeguard, tmp_path):
    more = ", index: 1}, calm: {sae: {path: sae}, index: 2}}"
    (tmp_path / "rules.yaml").write_text(RULES.replace(", index: 1}}", more))
    (tmp_path / "good_test.yaml").write_text(FIRES.replace("0 3 3", "0 3 3, calm: 0x3"))
    code, out, _ = saeguard("test", "good_test.yaml")
    assert code == 0
    assert "good_test.yaml:4:53: warning: no rule reads the feature 'calm'" in out
