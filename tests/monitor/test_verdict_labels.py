"""What reviewers said of alerts comes back as labels of their requests."""

from __future__ import annotations

from pathlib import Path

from running_monitor import running_monitor, wait_for
from typer.testing import CliRunner

from saeguard.monitor.cli.app import app
from saeguard.monitor.verdicts import add_verdict
from saeguard.rules.calibration.labels import Label, match_labels, read_labels
from saeguard.rules.recordings.recording import read_recordings

SAID = {"a": "true_positive", "b": "false_positive", "c": "benign", "d": "unsure"}


def test_right_and_wrong_alerts_become_labels_and_what_says_neither_does_not(tmp_path: Path):
    with running_monitor(tmp_path) as monitor:
        for name in (*SAID, "e"):
            monitor.lie_once(f"{name}-1")
        wait_for(lambda: monitor.total("requests/finished") == 5)
        monitor.stop()
        alerts = {alert.request_id: alert for alert in monitor.alerts()}
        for name, word in SAID.items():
            add_verdict(monitor.store, alerts[name].id, word, "", "me")
        files = (tmp_path / "runs.jsonl", tmp_path / "labels.jsonl")
        command = f"alerts export --store {monitor.store} -o {files[0]} --labels {files[1]}"
        result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 0, result.output
    assert "wrote verdicts on 2 of them" in result.output
    labels = read_labels(files[1])
    rule = alerts["a"].rule_name
    assert sorted(labels, key=lambda label: label.id) == [
        Label("a", {rule: True}, source="reviewer"),
        Label("b", {rule: False}, source="reviewer"),
    ]
    matched = match_labels(read_recordings(files[0]), labels)
    assert (len(matched.examples), matched.num_unlabelled) == (2, 3)
