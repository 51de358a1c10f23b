"""`saeguard check`: what it prints in each format, and how it ends."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import jsonschema
import pytest
from sarif_schema import SARIF_SCHEMA

from saeguard.monitor.cli import main
from saeguard.monitor.cli.check_formats import github_lines
from saeguard.monitor.cli.check_report import Problem, Report
from saeguard.rules import Location

GOOD = """\
version: 1
ruleset: {name: set, version: "1"}
features:
  lying: {sae: {path: sae}, index: 1}
rules:
  - id: 00000000-0000-0000-0000-000000000001
    name: lie
    title: A lie
    status: test
    severity: low
    signals:
      s: {feature: lying, agg: mean, window: 8 tokens, gte: 4}
    condition: s
    message: "{signal.s.value}"
"""
WARNING = GOOD.replace("agg: mean", "agg: max")
SILENCED = WARNING.replace("- id:", "# saeguard: ignore[single-token] a probe\n  - id:")
WRONG = GOOD.replace("gte: 4", "get: 4").replace("severity: low", "severity: lwo")


@pytest.fixture
def saeguard(monkeypatch, capsys, tmp_path):
    """Runs the console script in an empty directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["saeguard", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def check(saeguard, tmp_path):
    """Runs `saeguard check` on a text: exit code, stdout."""

    def run(text, *options, name="rules.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        code, out, err = saeguard("check", *options, name)
        assert err == ""
        return code, out

    return run


def test_a_good_file_is_summed_up_in_one_line(check):
    code, out = check(GOOD)
    summary = "no errors, no warnings, 1 note (--notes shows them)"
    assert (code, out) == (0, f"1 rule and 1 feature: {summary}\n")


def test_notes_are_shown_when_asked_for_and_never_fail(check):
    code, out = check(GOOD, "--notes", "--strict")
    assert code == 0
    assert "rules.yaml:6:5: note: rule 'lie' names no false positives [no-falsepositives]\n" in out


def test_every_error_has_its_own_line_and_the_exit_code_is_one(check):
    code, out = check(WRONG)
    first, second, summary = out.splitlines()
    assert code == 1
    assert first.startswith("rules.yaml:10:15: error: severity: ")
    assert second.startswith("rules.yaml:12:")
    assert summary == "2 errors; the rules were not loaded"


def test_a_warning_fails_only_when_strict(check):
    code, out = check(WARNING)
    warning = "rules.yaml:6:5: warning: one high score of 'lying' is enough to fire [single-token]"
    assert (code, out.splitlines()[0]) == (0, warning)
    assert check(WARNING, "--strict")[0] == 1


def test_a_silenced_warning_is_counted_and_does_not_fail(check):
    code, out = check(SILENCED, "--strict")
    assert code == 0
    assert out.endswith("no warnings, 1 note (--notes shows them), 1 silenced by comments\n")


def test_a_path_that_is_not_there_is_wrong_usage(saeguard):
    code, out, err = saeguard("check", "nowhere.yaml")
    assert (code, out) == (2, "")
    assert "nowhere.yaml: no such file or directory" in err


def test_directories_and_several_files_are_one_set(saeguard, tmp_path):
    folder = tmp_path / "rules"
    folder.mkdir()
    head, rules = GOOD.split("rules:\n")
    (folder / "a.yaml").write_text(head)
    (tmp_path / "b.yaml").write_text(f"{head.split('features')[0]}rules:\n{rules}")
    code, out, _ = saeguard("check", "rules", "b.yaml")
    assert (code, out.split(":")[0]) == (0, "1 rule and 1 feature")


def test_hostile_names_do_not_reach_the_terminal_unescaped(check):
    code, out = check(GOOD.replace("gte: 4", '"g\\e[31mte": 4'))
    assert code == 1
    assert "\x1b" not in out
    assert "\\x1b[31m" in out


def test_json_is_one_object_with_an_id_and_a_help_text_for_everything(check):
    code, out = check(SILENCED, "--format", "json", "--notes")
    report = json.loads(out)
    assert code == 0
    assert report["counts"] == {"error": 0, "warning": 0, "note": 1, "silenced": 1}
    assert (report["loaded"], report["rules"], report["features"]) == (True, 1, 1)
    silenced = next(each for each in report["problems"] if each["id"] == "single-token")
    place = (silenced["file"], silenced["line"], silenced["column"], silenced["silenced"])
    assert place == ("rules.yaml", 7, 5, "a probe")
    assert all(each["help"] for each in report["problems"])

    code, out = check(WRONG, "--format", "json")
    report = json.loads(out)
    assert (code, report["loaded"], report["counts"]["error"]) == (1, False, 2)
    assert {each["id"] for each in report["problems"]} == {"invalid-rules"}
    assert all(each["help"] for each in report["problems"])


@pytest.mark.parametrize("text", [GOOD, WARNING, SILENCED, WRONG])
def test_sarif_is_as_the_standard_says(check, text):
    _, out = check(text, "--format", "sarif", "--notes")
    log = json.loads(out)
    jsonschema.validate(log, SARIF_SCHEMA, format_checker=jsonschema.FormatChecker())
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rules[each["ruleIndex"]]["id"] for each in run["results"]] == [
        each["ruleId"] for each in run["results"]
    ]


def test_sarif_names_files_below_the_current_directory_relative_to_it(check, tmp_path):
    _, out = check(WARNING, "--format", "sarif", name="my rules/a%b.yaml")
    place = json.loads(out)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my%20rules/a%25b.yaml"
    assert place["region"] == {"startLine": 6, "startColumn": 5}


def test_sarif_names_other_files_by_absolute_uris(saeguard, tmp_path, monkeypatch):
    path = tmp_path / "my rules.yaml"
    path.write_text(WARNING)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    _, out, _ = saeguard("check", "--format", "sarif", "../my rules.yaml")
    place = json.loads(out)["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    uri = urlsplit(place["artifactLocation"]["uri"])
    assert (uri.scheme, unquote(uri.path)) == ("file", str(path))


def test_sarif_marks_what_a_comment_silences_as_suppressed(check):
    _, out = check(SILENCED, "--format", "sarif")
    (result,) = json.loads(out)["runs"][0]["results"]
    assert result["suppressions"] == [{"kind": "inSource", "justification": "a probe"}]


def test_github_gets_a_command_for_each_finding(check):
    code, out = check(WARNING, "--format", "github", "--notes")
    assert code == 0
    place = "file=rules.yaml,line=6,col=5"
    assert out.splitlines()[:2] == [
        f"::warning {place},title=single-token::one high score of 'lying' is enough to fire",
        f"::notice {place},title=no-falsepositives::rule 'lie' names no false positives",
    ]


def test_github_commands_cannot_be_broken_out_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    where = Location(tmp_path / "a,b:c%.yaml", 3, 4)
    problem = Problem(where, "error", "invalid-rules", "100% wrong, here: x")
    line, _ = github_lines(Report([problem]), notes=False)
    assert line == (
        "::error file=a%2Cb%3Ac%25.yaml,line=3,col=4,title=invalid-rules::100%25 wrong, here: x"
    )


def test_a_line_break_in_a_message_does_not_start_a_new_command():
    problem = Problem(Location("a.yaml"), "error", "invalid-rules", "one\r\n::error::two")
    line, _ = github_lines(Report([problem]), notes=False)
    assert "\n" not in line
    assert "\r" not in line


def test_a_thousand_rules_are_checked_in_a_moment(tmp_path):
    head, rule = GOOD.split("rules:\n")
    numbered = [
        rule.replace("000000000001", f"{i:012x}")
        .replace("name: lie", f"name: lie_{i}")
        .replace("gte: 4", f"gte: {4 + i / 1000}")
        for i in range(1000)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(f"{head}rules:\n{''.join(numbered)}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code = "from saeguard.monitor.cli import main; main()"
    command = [sys.executable, "-Ic", code, "check", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith("1000 rules and 1 feature: no errors, no warnings")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s < 4  # it is 1.2 s on the machine this was written on


def test_the_schema_is_printed_or_written(saeguard, tmp_path):
    code, printed, _ = saeguard("schema")
    assert code == 0
    assert json.loads(printed)["title"] == "saeguard rules"
    code, out, _ = saeguard("schema", "-o", "rules.schema.json")
    assert (code, (tmp_path / "rules.schema.json").read_text()) == (0, printed)
    (tmp_path / "rules").mkdir()
    code, out, _ = saeguard("schema", "-o", "rules/rules.schema.json")
    assert "beside it with\n# yaml-language-server: $schema=rules.schema.json\n" in out


def test_a_schema_that_cannot_be_written_is_said_without_a_traceback(saeguard, tmp_path):
    code, _, err = saeguard("schema", "-o", tmp_path)
    assert code == 2
    assert "Is a directory" in err
