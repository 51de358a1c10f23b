"""The review page: what a reviewer sees and does, and what nobody else can."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from records import ANSWER, PROMPT, make_alert, make_correlation, make_health_alert, make_request
from review_pages import browser, keep, listed, say

from saeguard.integrations.review.app import PAGE_SIZE
from saeguard.monitor.alerts import ConditionLine
from saeguard.monitor.store import Store
from saeguard.monitor.verdicts import history, newest

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.sqlite"
    Store(path).close()
    return path


def test_alerts_are_listed_newest_first_a_page_at_a_time(path: Path):
    alerts = [make_alert() for _ in range(PAGE_SIZE + 3)]
    keep(path, *alerts)
    page, ids = browser(path), [alert.id for alert in reversed(alerts)]
    assert listed(page) == ids[:PAGE_SIZE]
    assert listed(page, "?number=1") == ids[PAGE_SIZE:]
    following = page.get("/?severity=low").text
    assert 'rel="next" href="/?severity=low&amp;number=1"' in following


def test_the_list_is_filtered_and_searched(path: Path):
    low = make_alert(severity="low", rule_name="quiet", tenant="blue")
    high = make_alert(severity="high", rule_name="loud", message="100 % of _it")
    keep(path, low, high)
    page = browser(path)
    assert listed(page, "?rule=quiet") == [low.id]
    assert listed(page, "?severity=medium") == [high.id]
    assert listed(page, "?text=blue") == [low.id]
    assert listed(page, "?text=100+%25+of+_i") == [high.id], "no pattern, but the text itself"
    assert listed(page, "?text=nowhere") == []
    assert "No alert is like that" in page.get("/?text=nowhere").text


def test_why_an_alert_fired_and_on_which_tokens_is_shown(path: Path):
    request = make_request(
        req_id="r", phases=[PROMPT, ANSWER, ANSWER], scores=[[0.0], [float("nan")], [7.21]],
        texts=["Hi", " tell\n", " lie"],
    )  # fmt: skip
    alert = make_alert(req_id="r", position=2, first_position=1)
    keep(path, alert, requests=[request])
    text = browser(path).get(f"/alerts/{alert.id}").text
    assert "intends to mislead" in text
    assert "≥ 4" in text
    tokens = re.findall(r'<span class="(t s[^"]*)" title="([^"]*)">([^<]*)</span>', text)
    assert [token[1:] for token in tokens] == [
        ("0: 0.00", "Hi"), ("1: n/a", "·tell⏎"), ("2: 7.21", "·lie"),
    ]  # fmt: skip
    marks = {"over", "firing", "evidence", "unseen"}
    assert [set(token[0].split()) & marks for token in tokens] == [
        set(), {"evidence", "unseen"}, {"over", "firing", "evidence"},
    ]  # fmt: skip


def test_the_condition_is_a_tree_with_each_signal_s_value(path: Path):
    lines = [("all of", True, 0), ("peak", True, 1), ("not", True, 1), ("calm", False, 2)]
    alert = make_alert(condition=[ConditionLine(*line) for line in lines])
    keep(path, alert)
    text = browser(path).get(f"/alerts/{alert.id}").text
    tree = re.findall(r'<li class="(d\d)( true)?">.*?</span></span> (.*?)</li>', text)
    assert [(depth, bool(holds)) for depth, holds, _ in tree] == [
        ("d0", True), ("d1", True), ("d1", True), ("d2", False),
    ]  # fmt: skip
    assert tree[1][2].startswith("<b>peak</b> 7.21")
    assert tree[3][2] == "calm"


@pytest.mark.parametrize("make", [make_correlation, make_health_alert, make_alert])
def test_alerts_of_every_kind_have_a_page(path: Path, make):
    alert = make()
    keep(path, alert)
    page = browser(path)
    assert listed(page) == [alert.id]
    assert alert.id in page.get(f"/alerts/{alert.id}").text


def test_what_models_and_clients_write_stays_text(path: Path):
    request = make_request(req_id=HOSTILE, texts=[HOSTILE] * 3)
    alert = make_alert(
        message=HOSTILE, tenant=HOSTILE, request_id=HOSTILE, req_id=HOSTILE, rule_title=HOSTILE,
        feature_labels={"deceit": HOSTILE},
    )  # fmt: skip
    keep(path, alert, requests=[request])
    page = browser(path)
    say(page, alert.id, "unsure", comment=HOSTILE, reviewer=HOSTILE)
    for url in ("/", f"/alerts/{alert.id}", f"/alerts/{alert.id}/export"):
        text = page.get(url).text
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "&lt;script&gt;" in text


def test_a_verdict_is_kept_with_who_said_it_and_can_be_taken_back(path: Path):
    alert = make_alert()
    keep(path, alert)
    page = browser(path)
    assert say(page, alert.id, "true_positive", comment="it lies", reviewer="ada") == 303
    assert newest(path, [alert.id])[alert.id].comment == "it lies"
    assert "true positive" in page.get("/").text.split("</form>")[1]
    assert listed(page, "?verdict=true_positive") == [alert.id]
    assert listed(page, "?verdict=open") == []
    assert say(page, alert.id, "none", reviewer="ada") == 303
    assert newest(path, [alert.id]) == {}
    assert listed(page, "?verdict=open") == [alert.id]
    assert [said.verdict for said in history(path, alert.id)] == ["none", "true_positive"]
    assert "taken back" in page.get(f"/alerts/{alert.id}").text


def test_verdicts_are_kept_while_a_monitor_writes(path: Path):
    alert = make_alert()
    with Store(path) as store:
        store.add_alert(alert)
        store.flush()
        page = browser(path)
        for number in range(20):
            store.add_alert(make_alert())
            assert say(page, alert.id, "benign", comment=str(number)) == 303
    assert len(history(path, alert.id)) == 20


def test_another_page_cannot_speak_in_the_reviewer_s_name(path: Path):
    alert = make_alert()
    keep(path, alert)
    form = {"csrf": "guessed", "verdict": "benign"}
    assert browser(path).post(f"/alerts/{alert.id}/verdict", data=form).status_code == 403
    assert history(path, alert.id) == []
    rebound = TestClient(browser(path).app, base_url="http://attacker.example")
    assert rebound.get("/").status_code == 421


def test_with_a_token_nobody_else_sees_anything(path: Path):
    page = browser(path, token="s3cret")
    for url in ("/", "/?token=wrong", "/static/review.css", "/alerts/x"):
        assert page.get(url).status_code == 401
    reply = page.get("/?token=s3cret&severity=high", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, "/?severity=high")
    assert "HttpOnly" in reply.headers["set-cookie"]
    assert page.get("/").status_code == 200, "the cookie is enough from then on"


def test_nothing_may_be_loaded_from_elsewhere(path: Path):
    reply = browser(path).get("/")
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["Cache-Control"] == "no-store"
    assert not re.findall(r'(?:src|href|action)="(?:https?:)?//', reply.text)


def test_an_exported_alert_is_one_file_that_needs_nothing_else(path: Path):
    alert = make_alert()
    keep(path, alert, requests=[make_request(req_id=alert.req_id)])
    reply = browser(path).get(f"/alerts/{alert.id}/export")
    assert f'filename="saeguard-{alert.id}.html"' in reply.headers["content-disposition"]
    assert "<style>" in reply.text
    assert not re.findall(r"<(?:script|link|form|a|img)\b", reply.text)
    assert "max" in reply.text


def test_what_is_not_there_is_said(path: Path, tmp_path: Path):
    for url, status, message in (
        ("/alerts/none", 404, "no alert &#39;none&#39;"),
        ("/nowhere", 404, "Not found"),
        ("/?number=first", 422, "number: "),
    ):
        reply = browser(path).get(url)
        assert (reply.status_code, "<main>" in reply.text) == (status, True)
        assert message in reply.text
    gone = browser(tmp_path / "gone.sqlite").get("/")
    assert gone.status_code == 503
    assert "there is no alert store" in gone.text


def test_a_page_of_ten_thousand_alerts_is_quick(path: Path):
    alerts = [make_alert(req_id=f"r{i}", rule_name=f"rule_{i % 7}") for i in range(10_000)]
    scores = np.random.default_rng(0).random((1024, 10), np.float32)
    whole = {"scores": scores, "phases": [PROMPT] * 1024, "texts": [" word"] * 1024}
    features = ["deceit", *(f"feature_{i}" for i in range(9))]
    records = [make_request(req_id=f"r{i}", features=features, **whole) for i in range(200)]
    keep(path, *alerts, requests=records)
    page = browser(path)
    one = f"alerts/{alerts[100].id}"
    for url in ("", "?text=nowhere", "?verdict=open&number=150", one, f"{one}?text=nowhere"):
        taken = []
        for _ in range(3):
            began_s = time.process_time()
            assert page.get(f"/{url}").status_code == 200
            taken.append(time.process_time() - began_s)
        assert min(taken) < 0.2, url
