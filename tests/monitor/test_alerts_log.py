"""The log line of an alert."""

from __future__ import annotations

import contextlib
import json
import logging
import os

import pytest
import structlog
from records import make_alert

from saeguard.monitor.logging import log_alert, logger, printable

HOSTILE = ("\x1b[2J", "\u202e", '\n{"rule": "forged"}')


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_escaped(monkeypatch, capsys, form, text):
    monkeypatch.setenv("SAEGUARD_LOG", form)
    log_alert(make_alert(token=text, request_id=text, message=text))
    err = capsys.readouterr().err
    assert text not in err
    assert err.count("\n") == 1


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


def test_a_log_that_nobody_reads_any_more_ends_nothing(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        monkeypatch.setattr("sys.stderr", broken)
        log_alert(make_alert())
        logger("saeguard.monitor").error("failed")
        with contextlib.suppress(BrokenPipeError):
            broken.close()
