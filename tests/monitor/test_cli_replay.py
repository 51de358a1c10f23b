"""`saeguard replay` and `saeguard diff`: rules over recorded requests."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from console_script import console_script

RULE_ID = "00000000-0000-0000-0000-00000000000{}"


@pytest.fixture
def saeguard(monkeypatch, capsys, tmp_path):
    return console_script(monkeypatch, capsys, tmp_path)


def rule(name, number=1, gte=4.0, **keys):
    lie = {"feature": "lie", "agg": "max", "window": "2 tokens", "gte": gte}
    return {
        "id": RULE_ID.format(number),
        "name": name,
        "title": name.title(),
        "status": "test",
        "severity": "high",
        "scope": {"phase": ["answer"]},
        "signals": {"lie": lie},
        "condition": "lie",
        "message": "{rule.title}: {signal.lie.value} on {signal.lie.token}",
    } | keys


def write_rules(path, *rules, folder="sae"):
    features = {"lie": {"sae": {"path": folder}, "index": 1}}
    ruleset = {"name": path.stem, "version": "1"}
    data = {"version": 1, "ruleset": ruleset, "features": features, "rules": list(rules)}
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def line(name, *scores, prompt=2, **more):
    return {
        "context": {"id": name},
        "phases": f"prompt:{prompt} answer:{len(scores) - prompt}",
        "features": {"lie": list(scores)},
    } | more


@pytest.fixture
def files(tmp_path):
    """Two rules, and three requests: loud, quiet and twice loud."""
    write_rules(tmp_path / "rules.yaml", rule("lying"), rule("shouting", 2, gte=9.0))
    lines = [
        line("loud", 9, 9, 0, 0, 5, token_ids=[1, 2, 3, 4, 77]),
        line("quiet", 0, 0, 1, None, 2),
        line("twice", 0, 0, 4, 0, 0, 0, 4),
    ]
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))


def words(text):
    """Lines with their spaces made one."""
    return [" ".join(part.split()) for part in text.splitlines()]


@pytest.mark.usefixtures("files")
def test_replay_lists_the_alerts_of_each_rule_and_what_became_of_its_matches(saeguard):
    code, out, err = saeguard("replay", "rules.yaml", "runs.jsonl")
    assert (code, err) == (0, "")
    assert words(out) == [
        "lying high",
        "request token position message",
        "loud answer 2 4 Lying: 5 on [token 77]",
        "twice answer 0 2 Lying: 4 on [text not captured]",
        "",
        "rule matches alerts limited",
        "lying 3 2 1",
        "",
        "never matched: shouting",
        "2 alerts in 2 of 3 requests",
    ]


@pytest.mark.usefixtures("files")
def test_replay_as_json_has_every_rule_and_every_outcome(saeguard):
    _, out, _ = saeguard("replay", "rules.yaml", "runs.jsonl", "--format", "json")
    found = json.loads(out)
    assert found["requests"] == 3
    assert found["alerts"][0] == {
        "rule": "lying",
        "severity": "high",
        "request": "loud",
        "message": "Lying: 5 on [token 77]",
        "phase": "answer",
        "position": 4,
        "token": 2,
    }
    outcomes = {"alert": 2, "limited": 1, "suppressed": 0, "building_block": 0}
    assert found["rules"] == {
        "lying": {"matches": 3, **outcomes, "uncovered": []},
        "shouting": {**dict.fromkeys(["matches", *outcomes], 0), "uncovered": []},
    }


@pytest.mark.usefixtures("files")
def test_rules_and_recordings_may_be_several_and_in_any_order(saeguard, tmp_path):
    (tmp_path / "more").mkdir()
    write_rules(tmp_path / "more" / "a.yaml", rule("whispering", 3, gte=1.0), folder="../sae")
    _, out, _ = saeguard("replay", "runs.jsonl", "more", "rules.yaml", "runs.jsonl")
    assert words(out)[0] == "whispering high"
    assert words(out)[-1] == "10 alerts in 6 of 6 requests"


@pytest.mark.usefixtures("files")
def test_a_correlation_is_shown_with_the_request_that_completed_it_and_no_token(saeguard, tmp_path):
    correlate = {"type": "event_count", "rules": ["lying"], "timespan": "10m", "gte": 2}
    alarm = rule("often", 2, correlate=correlate, message="{count} within {timespan}")
    for key in ("signals", "condition", "scope"):
        del alarm[key]
    write_rules(tmp_path / "rules.yaml", rule("lying", emit=False), alarm)
    code, out, err = saeguard("replay", "rules.yaml", "runs.jsonl")
    assert (code, err) == (0, "")
    assert "twice - 2 within 10m" in words(out)
    assert "rule matches alerts limited building block" in words(out)
    assert words(out)[-1] == "1 alert in 1 of 3 requests"


@pytest.mark.usefixtures("files")
def test_what_an_exception_suppressed_is_counted(saeguard, tmp_path):
    exception = {"name": "lab", "when": {"tenant": ["lab"]}, "reason": "sanctioned"}
    write_rules(tmp_path / "rules.yaml", rule("lying", exceptions=[exception]))
    (tmp_path / "lab.jsonl").write_text(json.dumps(line("r", 0, 0, 5, context={"tenant": "lab"})))
    _, out, _ = saeguard("replay", "rules.yaml", "lab.jsonl")
    assert "rule matches alerts suppressed" in words(out)
    assert "lying 1 0 1" in words(out)
    assert words(out)[-1] == "0 alerts in 0 of 1 request"


@pytest.mark.usefixtures("files")
def test_replay_names_the_requests_in_which_a_rule_saw_too_little(saeguard, tmp_path):
    others = {"phase": ["answer"], "tenant": ["other"]}
    stranger = rule("stranger", 2, min_coverage="90%", scope=others)
    write_rules(tmp_path / "rules.yaml", rule("lying", min_coverage="90%"), stranger)
    _, out, _ = saeguard("replay", "rules.yaml", "runs.jsonl")
    assert words(out)[-2] == "uncovered: lying in 1 of 3 requests: quiet"
    write_rules(tmp_path / "rules.yaml", rule("lying", min_coverage="80%"))
    _, out, _ = saeguard("replay", "rules.yaml", "runs.jsonl")
    assert "uncovered" not in out


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    (path.parent / "new.yaml").write_text(text.replace(old, new))


@pytest.mark.usefixtures("files")
def test_diff_of_equal_alerts_says_so_and_ends_with_0(saeguard, tmp_path):
    edit(tmp_path / "rules.yaml", "version: '1'", "version: '2'")
    code, out, _ = saeguard("diff", "rules.yaml", "new.yaml", "runs.jsonl")
    assert (code, out) == (0, "2 alerts before, 2 after, all at the same tokens\n")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("severity: high", "severity: low", "~ lying: severity high → low"),
        ("title: Lying", "title: Lies", "~ lying: title Lying → Lies"),
        ("index: 1", "index: 2", "warning: sae.index 1 → 2 of lie: a recording cannot show"),
        (
            "index: 1",
            "index: 1\n    units: neuronpedia",
            "warning: units raw → neuronpedia of lie:",
        ),
        ("index: 1", "index: 1\n    max: 9.0", "warning: max nothing → 9.0 of lie:"),
    ],
)
@pytest.mark.usefixtures("files")
def test_diff_shows_what_alerts_at_the_same_tokens_hide(saeguard, tmp_path, old, new, says):
    edit(tmp_path / "rules.yaml", old, new)
    code, out, _ = saeguard("diff", "rules.yaml", "new.yaml", "runs.jsonl")
    assert code == 1
    assert words(out)[0].startswith(says)


@pytest.mark.usefixtures("files")
def test_diff_as_json_names_rules_and_features_that_are_defined_otherwise(saeguard, tmp_path):
    write_rules(tmp_path / "new.yaml", rule("lying", severity="low"), folder="other")
    code, out, _ = saeguard("diff", "rules.yaml", "new.yaml", "runs.jsonl", "--format", "json")
    found = json.loads(out)
    assert code == 1
    assert found["rule_changes"] == [
        {"rule": "lying", "key": "severity", "old": "high", "new": "low"}
    ]
    (change,) = found["feature_changes"]
    assert (change["features"], change["key"]) == (["lie"], "sae.path")


@pytest.mark.usefixtures("files")
def test_tables_fit_the_width_that_is_asked_for(saeguard, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    write_rules(tmp_path / "rules.yaml", rule("lying", message="as long as can be " * 9))
    write_rules(tmp_path / "new.yaml", rule("lying", gte=9.0, message="as long as can be " * 9))
    for command in (["replay", "rules.yaml"], ["diff", "rules.yaml", "new.yaml"]):
        _, out, _ = saeguard(*command, "runs.jsonl")
        assert max(map(len, out.splitlines())) <= 60


@pytest.mark.usefixtures("files")
def test_diff_shows_what_is_added_removed_and_moved_and_ends_with_1(saeguard, tmp_path):
    (tmp_path / "more.jsonl").write_text(json.dumps(line("third", 0, 0, 4, 9)))
    for name, lying, shouting in (("rules", 4.0, 9.5), ("new", 5.0, 9.0)):
        rules = [rule("lying", gte=lying), rule("shouting", 2, gte=shouting)]
        write_rules(tmp_path / f"{name}.yaml", *rules)
    code, out, _ = saeguard("diff", "rules.yaml", "new.yaml", "runs.jsonl", "more.jsonl")
    assert code == 1
    assert words(out) == [
        "lying high",
        "request token message",
        "~ third answer 0 → 1 Lying: 9 on [text not captured]",
        "- twice answer 0 Lying: 4 on [text not captured]",
        "",
        "shouting high",
        "request token message",
        "+ third answer 1 Shouting: 9 on [text not captured]",
        "",
        "rule added removed moved",
        "lying 0 1 1",
        "shouting 1 0 0",
        "total 1 1 1",
        "",
        "3 alerts before, 3 after",
    ]


@pytest.mark.usefixtures("files")
def test_diff_as_json_has_both_sides_of_a_change(saeguard, tmp_path):
    edit(tmp_path / "rules.yaml", "gte: 4.0", "gte: 5.0")
    code, out, _ = saeguard("diff", "rules.yaml", "new.yaml", "runs.jsonl", "--format", "json")
    found = json.loads(out)
    assert (code, found["old_alerts"], found["new_alerts"]) == (1, 2, 1)
    (change,) = found["changes"]
    assert (change["change"], change["new"]) == ("removed", None)
    assert (change["old"]["request"], change["old"]["position"]) == ("twice", 2)


@pytest.mark.usefixtures("files")
def test_diff_takes_directories(saeguard, tmp_path):
    (tmp_path / "new").mkdir()
    write_rules(tmp_path / "new" / "a.yaml", rule("lying"), folder="../sae")
    write_rules(tmp_path / "new" / "b.yaml", rule("shouting", 2, gte=5.0), folder="../sae")
    code, out, _ = saeguard("diff", "rules.yaml", "new", "runs.jsonl")
    assert (code, words(out)[0]) == (1, "shouting high")


@pytest.mark.parametrize("command", ["replay rules.yaml", "diff rules.yaml rules.yaml"])
@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        ("missing.jsonl", "missing.jsonl: cannot be read: No such file or directory"),
        ("broken.jsonl", "broken.jsonl:2: Input data was truncated"),
        ("lacking.jsonl", "lacking.jsonl:1: the rules read lie, which was not recorded; it has a"),
    ],
)
@pytest.mark.usefixtures("files")
def test_what_cannot_be_replayed_is_wrong_usage(saeguard, tmp_path, command, recording, reason):
    (tmp_path / "broken.jsonl").write_text(json.dumps(line("a", 0, 0, 1)) + "\n{")
    (tmp_path / "lacking.jsonl").write_text('{"phases": "answer:1", "features": {"a": [1]}}')
    code, out, err = saeguard(*command.split(), recording)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {reason}")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["rules.yaml"], "give a recording too"),
        (["runs.jsonl"], "give rules too"),
        (["none.yaml", "runs.jsonl"], "none.yaml"),
    ],
)
@pytest.mark.usefixtures("files")
def test_replay_says_what_is_missing(saeguard, arguments, reason):
    code, out, err = saeguard("replay", *arguments)
    assert (code, out) == (2, "")
    assert reason in re.sub(r"[│\s]+", " ", err)


@pytest.mark.usefixtures("files")
def test_wrong_rules_are_named_with_their_place(saeguard, tmp_path):
    edit(tmp_path / "rules.yaml", "condition: lie", "condition: lies")
    code, out, err = saeguard("diff", "rules.yaml", "new.yaml", "runs.jsonl")
    assert (code, out) == (2, "")
    assert re.search(r"new.yaml:\d+:\d+: .*'lies'", err)


@pytest.mark.usefixtures("files")
def test_names_from_clients_do_not_reach_the_terminal_unescaped(saeguard, tmp_path):
    hostile = line("\x1b]0;owned\x07[bold]x", 0, 0, 5)
    (tmp_path / "hostile.jsonl").write_text(json.dumps(hostile))
    _, out, _ = saeguard("replay", "rules.yaml", "hostile.jsonl")
    assert "\x1b" not in out
    assert "[bold]" in out
