"""The log line of an alert."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from records import make_alert

from saeguard.monitor.logging import log_alert, logger, printable

HOSTILE = 'x\x1b[31m\n{"rule": "forged"}\u202e'


@pytest.mark.parametrize("form", ["console", "json"])
def test_hostile_token_text_stays_escaped(monkeypatch, capsys, form):
    monkeypatch.setenv("SAEGUARD_LOG", form)
    log_alert(make_alert(token=HOSTILE, request_id=HOSTILE, message=HOSTILE))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\x1b[31m\n" not in err
    assert "\u202e" not in err


def test_away_from_a_terminal_a_line_is_json_with_the_alert_id(monkeypatch, capsys):
    monkeypatch.delenv("SAEGUARD_LOG", raising=False)
    alert = make_alert()
    log_alert(alert)
    line = json.loads(capsys.readouterr().err)
    assert (line["alert_id"], line["token"]) == (alert.id, " pass")


def test_the_host_process_keeps_its_own_logging(capsys):
    configuration, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    logger("test").critical("message")
    assert structlog.get_config() == configuration
    assert logging.getLogger().handlers == handlers
    assert "critical" in capsys.readouterr().err


def test_ordinary_text_in_any_script_is_printed_as_it_is():
    assert printable("déjà 日本語 🙂") == "déjà 日本語 🙂"
