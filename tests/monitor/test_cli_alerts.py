"""`saeguard alerts`, and how the command line starts and ends."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from records import make_alert, make_correlation, make_health_alert, make_request

from saeguard.monitor.alerts import RuleCounts, SignalReading
from saeguard.monitor.cli import main
from saeguard.monitor.store import Store


@pytest.fixture
def saeguard(monkeypatch, capsys, tmp_path):
    """Runs the console script in an empty directory: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["saeguard", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


def keep(path, *alerts, requests=()):
    with Store(path) as store:
        for alert in alerts:
            store.add_alert(alert)
        for request in requests:
            store.add_request(request)


def test_alerts_are_listed_with_what_a_reviewer_picks_by(saeguard, tmp_path):
    alert = make_alert()
    keep(tmp_path / "saeguard-alerts.sqlite", alert)
    code, out, _ = saeguard("alerts", "list")
    assert code == 0
    for shown in ("deceit_in_reasoning", "high", "chatcmpl-1", "org/model", "5/6", alert.id[-8:]):
        assert shown in out


def test_the_listed_id_shows_the_alert(saeguard, tmp_path, monkeypatch):
    monkeypatch.setenv("SAEGUARD_STORE", str(tmp_path / "other.sqlite"))
    alert = make_alert()
    keep(tmp_path / "other.sqlite", alert, requests=[make_request()])
    code, out, _ = saeguard("alerts", "show", alert.id[-8:])
    assert code == 0
    for shown in ("Deceit in the chain of thought", "≥ 4", "evicted 1", ">>·pass[7.2]<<"):
        assert shown in out


def test_an_alert_across_requests_shows_them_and_its_group(saeguard, tmp_path):
    alert = make_correlation()
    keep(tmp_path / "saeguard-alerts.sqlite", alert)
    code, out, _ = saeguard("alerts", "show", alert.id)
    assert code == 0
    for shown in ("event_count: 2 within 600 s, of tenant acme", "chatcmpl-7", "completed it"):
        assert shown in out


def test_an_alert_about_the_monitor_itself_shows_no_request_and_no_token(saeguard, tmp_path):
    alert = make_health_alert(rule_name="saeguard.rules_refused", message="a\nb.yaml:3:1: no")
    keep(tmp_path / "saeguard-alerts.sqlite", alert)
    for arguments in (["list"], ["show", alert.id]):
        code, out, _ = saeguard("alerts", *arguments)
        assert code == 0
        assert "token -1" not in out
        assert "engine:" not in out
        assert "seen of the request" not in out
    assert "b.yaml:3:1: no" in [line.strip() for line in out.splitlines()]


def test_a_range_and_an_action_that_was_not_carried_out_are_shown(saeguard, tmp_path):
    turn = SignalReading("turn", "angle(x, y)", "value", 90.0, "between", 80.0, True, 2, 100.0)
    alert = make_alert(signals=[turn], action="stop", action_outcome="too_late")
    keep(tmp_path / "saeguard-alerts.sqlite", alert)
    _, out, _ = saeguard("alerts", "show", alert.id)
    assert "between 80 and 100" in out
    assert "stop: too_late" in out


@pytest.mark.parametrize("outcome", ["stopped", "too_late"])
def test_what_came_of_a_stop_is_shown_once_the_request_has_ended(saeguard, tmp_path, outcome):
    alert = make_alert(action="stop", action_outcome="requested")
    keep(tmp_path / "saeguard-alerts.sqlite", alert)
    assert "then" not in saeguard("alerts", "show", alert.id)[1]
    request = make_request(stop_outcome=outcome)
    keep(tmp_path / "saeguard-alerts.sqlite", requests=[request])
    assert f"stop: requested, then {outcome}" in saeguard("alerts", "show", alert.id)[1]


def test_an_alert_of_a_running_request_is_shown_without_tokens(saeguard, tmp_path):
    alert = make_alert()
    keep(tmp_path / "saeguard-alerts.sqlite", alert)
    code, out, _ = saeguard("alerts", "show", alert.id)
    assert code == 0
    assert "still running" in out


def test_json_has_one_alert_a_line_and_the_request_with_null_for_unseen(saeguard, tmp_path):
    alerts = [make_alert(), make_alert()]
    keep(tmp_path / "saeguard-alerts.sqlite", *alerts, requests=[make_request()])
    _, out, _ = saeguard("alerts", "list", "--json")
    assert [json.loads(line)["id"] for line in out.splitlines()] == [alerts[1].id, alerts[0].id]
    _, out, _ = saeguard("alerts", "show", alerts[0].id, "--json")
    assert json.loads(out)["request"]["scores"][0] == [None]


def test_names_from_clients_do_not_reach_the_terminal_unescaped(saeguard, tmp_path):
    hostile = "\x1b]0;owned\x07[bold]x"
    fields = ("request_id", "model", "lora", "tenant", "token", "message")
    keep(tmp_path / "saeguard-alerts.sqlite", alert := make_alert(**dict.fromkeys(fields, hostile)))
    for command in (["list"], ["show", alert.id]):
        _, out, _ = saeguard("alerts", *command)
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "[bold]" in out.replace("\n", "")


def test_the_list_can_be_narrowed(saeguard, tmp_path):
    keep(tmp_path / "saeguard-alerts.sqlite", make_alert(rule_name="a", severity="low"))
    assert "no alerts" in saeguard("alerts", "list", "--severity", "high")[2]
    assert "no alerts" in saeguard("alerts", "list", "--rule", "b")[2]
    assert "a" in saeguard("alerts", "list", "--since", "1h")[1]
    assert saeguard("alerts", "list", "--since", "yesterdayish")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["alerts", "list"], "there is no alert store"),
        (["alerts", "list", "--store", "text"], "not a database"),
        (["alerts", "show", "ffff", "--store", "good.sqlite"], "no alert 'ffff'"),
        (["alerts", "show", "", "--store", "good.sqlite", "--feature", "x"], "was not watched"),
    ],
)
def test_what_cannot_be_done_ends_with_one_message_and_exit_code_2(
    saeguard, tmp_path, arguments, reason
):
    (tmp_path / "text").write_text("not a database, but a longer text than any header" * 9)
    keep(tmp_path / "good.sqlite", make_alert(), requests=[make_request()])
    code, out, err = saeguard(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert reason in err
    assert "Traceback" not in err


def test_wrong_rules_are_findings_with_their_place(saeguard, tmp_path):
    (tmp_path / "rules.yaml").write_text("version: 1\nrulez: []\n")
    code, out, _ = saeguard("check", "rules.yaml")
    assert code == 1
    assert "rules.yaml:2:1: " in out


def test_a_missing_rule_file_is_wrong_usage(saeguard):
    assert saeguard("check", "missing.yaml")[0] == 2


def test_a_command_that_cannot_be_loaded_says_so_in_one_line(saeguard, monkeypatch):
    from saeguard.monitor.cli.app import Commands

    monkeypatch.setitem(Commands.own, "broken", ("saeguard.monitor.missing:command", ""))
    code, _, err = saeguard("broken", "--help")
    assert code == 2
    assert "`saeguard broken` cannot be loaded: No module named" in err


def test_help_imports_no_command():
    program = """
import sys
from saeguard.monitor.cli import main
sys.argv = ["saeguard", "--help"]
try:
    main()
except SystemExit:
    print("LOADED", *sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    before, loaded = run.stdout.split("LOADED")
    assert all(name in before for name in ("check", "alerts", "serve", "demo"))
    heavy = {"numpy", "structlog", "saeguard.rules", "saeguard.integrations", "vllm", "torch"}
    assert not heavy & set(loaded.split())


def test_what_a_client_opted_out_of_is_shown_with_what_it_held_back(saeguard, tmp_path):
    alert = make_alert(policy="gold")
    request = make_request(
        opt_outs={"lying": "granted", "always\x1b": "unknown"},
        counts={"lying": RuleCounts(matches=3, opted_out=3)},
    )
    keep(tmp_path / "saeguard-alerts.sqlite", alert, requests=[request])
    _, out, _ = saeguard("alerts", "show", alert.id)
    assert "lying (granted), always\\x1b (unknown)" in out
    assert ["lying", "3", "0", "0", "0", "3"] in [line.split() for line in out.splitlines()]
    assert ["policy", "gold"] in [line.split() for line in out.splitlines()]
