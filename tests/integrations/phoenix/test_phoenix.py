"""Alerts of a running monitor in a real Phoenix, and what people say of them there."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from console_script import console_script
from phoenix_server import Phoenix, needs_phoenix, phoenix
from records import make_alert
from running_monitor import Monitor, running_monitor, wait_for

from saeguard.integrations.otel import OtlpDestination
from saeguard.integrations.otel.mapping import span_id
from saeguard.monitor import spool
from saeguard.monitor.delivery import DeliveryError
from saeguard.monitor.verdicts import history, newest

pytestmark = needs_phoenix
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
BOUND_S = 120.0
"""For Phoenix, which shares its core with other tests, to do what takes it a second."""
REQUESTS = ("r0", "r1", "r2", "r3", "r4", "r5")
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Script = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phoenix]:
    with phoenix(tmp_path_factory.mktemp("phoenix")) as server:
        yield server


@pytest.fixture(scope="module")
def monitor(server: Phoenix, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitor]:
    """Its alerts, one of each request, are in Phoenix."""
    destination = {"kind": "otlp", "endpoint": server.url, "signals": ["traces"]}
    with running_monitor(tmp_path_factory.mktemp("monitor"), destinations=[destination]) as monitor:
        for name in REQUESTS:
            monitor.lie_once(name, tenant="acme", trace_headers={"traceparent": CLIENT})
        wait_for(lambda: len(server.spans("saeguard")) == len(REQUESTS), BOUND_S)
        yield monitor


@pytest.fixture
def saeguard(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    monitor: Monitor,
    server: Phoenix,
) -> Script:
    """`saeguard phoenix ...` about this store and this server."""
    run = console_script(monkeypatch, capsys, monitor.directory)
    monkeypatch.setenv("SAEGUARD_STORE", str(monitor.store))
    return lambda *arguments: run("phoenix", *arguments, "--endpoint", server.url)


def alert_of(monitor: Monitor, request: str) -> str:
    (alert,) = monitor.alerts(request_id=request)
    return alert.id


def span_of(alert_id: str) -> str:
    return f"{span_id(alert_id):016x}"


def test_alerts_are_root_spans_in_a_project_of_their_own(server: Phoenix, monitor: Monitor):
    spans = {each["attributes"]["saeguard.alert.id"]: each for each in server.spans("saeguard")}
    alerts = monitor.alerts()
    assert spans.keys() == {alert.id for alert in alerts}
    for alert in alerts:
        span = spans[alert.id]
        assert span["parent_id"] is None, "else its default view would not show it"
        assert (span["name"], span["span_kind"]) == ("deception", "GUARDRAIL")
        assert (span["status_code"], span["status_message"]) == ("ERROR", "Deception")
        assert span["context"]["trace_id"] == uuid.UUID(alert.id).hex
        assert span["context"]["span_id"] == span_of(alert.id)
        attributes = span["attributes"]
        assert attributes["gen_ai.request.id"] == alert.request_id
        assert attributes["saeguard.score"] == 5.0
        assert attributes["output.value"].startswith(alert.message)
        assert attributes["metadata.severity"] == "high"


def test_all_count_as_delivered_although_phoenix_takes_no_logs(server: Phoenix, monitor: Monitor):
    def status() -> spool.DestinationStatus:
        (found,) = spool.status(monitor.store).destinations
        return found

    wait_for(lambda: status().num_pending == 0, BOUND_S)  # Phoenix has them before the store knows
    assert status().num_quarantined == 0
    with pytest.raises(DeliveryError, match=r"405.*signals: \[traces\]"):
        OtlpDestination(server.url).deliver([make_alert()])


def test_an_alert_that_is_sent_again_is_no_second_span(server: Phoenix, monitor: Monitor):
    destination = OtlpDestination(server.url, signals=["traces"], service_name="twice")
    twice, last = make_alert(), make_alert()
    for alert in (twice, twice, last):
        destination.deliver([alert])
    wait_for(lambda: len(server.spans("twice")) >= 2, BOUND_S)
    ids = [span["attributes"]["saeguard.alert.id"] for span in server.spans("twice")]
    assert sorted(ids) == [twice.id, last.id]


def test_a_verdict_said_in_phoenix_is_pulled_once_and_again_when_it_has_changed(
    server: Phoenix, monitor: Monitor, saeguard: Script
):
    alert_id = alert_of(monitor, "r0")
    server.annotate(span_of(alert_id), "false positive", explanation="a story")
    code, out, _ = saeguard("pull")
    assert (code, out) == (
        0,
        "verdicts: 1 new, 0 known already; alerts in the store: 6\n",
    )
    said = newest(monitor.store, [alert_id])[alert_id]
    assert (said.verdict, said.comment, said.reviewer) == ("false_positive", "a story", "phoenix")
    assert saeguard("pull")[1].startswith("verdicts: 0 new, 1 known already")
    server.annotate(span_of(alert_id), "benign")
    assert saeguard("pull")[1].startswith("verdicts: 1 new, 0 known already")
    assert [said.verdict for said in history(monitor.store, alert_id)] == [
        "benign",
        "false_positive",
    ]


def test_reviewers_are_told_apart_also_on_several_pages(
    server: Phoenix, monitor: Monitor, saeguard: Script, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("saeguard.integrations.phoenix.server._PAGE_SIZE", 1)
    monkeypatch.setattr("saeguard.integrations.phoenix.server._SPANS_AT_ONCE", 4)
    alert_id = alert_of(monitor, "r1")
    for name, label in (("ada", "True Positive"), ("bob", "unsure")):
        server.annotate(span_of(alert_id), label, identifier=name)
    assert saeguard("pull")[0] == 0
    said = {each.reviewer: each.verdict for each in history(monitor.store, alert_id)}
    assert said == {"phoenix:ada": "true_positive", "phoenix:bob": "unsure"}


def test_what_is_no_verdict_of_a_person_is_counted_and_left(
    server: Phoenix, monitor: Monitor, saeguard: Script
):
    alert_id = alert_of(monitor, "r2")
    span = span_of(alert_id)
    server.annotate(span, "benign", annotator_kind="LLM", identifier="judge")
    server.annotate(span, "true positive", name="quality")
    server.annotate(span, "maybe", identifier="a")
    server.annotate(span, None, explanation="hm", identifier="b")
    try:
        code, out, _ = saeguard("pull")
        assert code == 1
        assert "1 not by a person" in out
        assert "1 with the label 'maybe'; verdict is one of true positive, false positive" in out
        assert "1 without a label" in out
        assert history(monitor.store, alert_id) == []
    finally:
        for identifier in "ab":
            server.annotate(span, "unsure", identifier=identifier)
    assert saeguard("pull")[0] == 0, "mended in Phoenix, they are taken"
    assert len(history(monitor.store, alert_id)) == 2


def test_a_project_that_is_not_there_is_an_error_that_names_those_that_are(saeguard: Script):
    code, _, err = saeguard("pull", "--project", "elsewhere")
    assert code == 2
    assert "no project 'elsewhere'" in err
    assert "saeguard" in err


def test_setup_offers_the_verdicts_in_phoenix_once(server: Phoenix, saeguard: Script):
    for _ in range(2):
        code, out, _ = saeguard("setup", "--project", "new")
        assert code == 0
        assert "true positive, false positive, benign, unsure" in out
    (offered,) = server.call("GET", "projects/new/annotation_configs")
    assert offered["name"] == "verdict"
    labels = [value["label"] for value in offered["values"]]
    assert labels == ["true positive", "false positive", "benign", "unsure"]


def test_setup_leaves_other_labels_of_that_name_alone(server: Phoenix, saeguard: Script):
    taste = {"name": "taste", "type": "CATEGORICAL", "optimization_direction": "NONE"}
    server.call("POST", "annotation_configs", json={**taste, "values": [{"label": "benign"}]})
    code, _, err = saeguard("setup", "--annotation", "taste")
    assert code == 2
    assert "'taste' without true positive, false positive, unsure" in err


@pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium")
def test_a_reviewer_finds_the_alert_and_says_in_the_browser_what_it_was(
    server: Phoenix, monitor: Monitor, saeguard: Script, tmp_path: Path
):
    playwright = pytest.importorskip("playwright.sync_api")
    saeguard("setup")
    alert_id = alert_of(monitor, "r3")

    def is_pulled() -> bool:
        saeguard("pull")
        return bool(newest(monitor.store, [alert_id]))

    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(BOUND_S * 1000)
        page.goto(f"{server.url}/projects/{server.project_id('saeguard')}")
        judge_in(page, alert_id, tmp_path)
        wait_for(is_pulled, BOUND_S)
        browser.close()
    assert newest(monitor.store, [alert_id])[alert_id].verdict == "false_positive"


def judge_in(page: Any, alert_id: str, screenshots: Path) -> None:
    """What a reviewer does: from the list of alerts to the verdict on that of request r3."""
    for name in REQUESTS:
        page.get_by_role("row", name=f"answer, token 2 of {name}").wait_for()
    page.get_by_text("parent_id is None").wait_for()  # it shows root spans
    page.screenshot(path=screenshots / "alerts.png")
    page.get_by_role("row", name="token 2 of r3").get_by_role("link", name="deception").click()
    opened = page.get_by_role("dialog")
    opened.get_by_text(uuid.UUID(alert_id).hex).wait_for()
    opened.locator("pre", has_text="lie: max of deceit is 5, ≥ 4 holds").wait_for()
    opened.get_by_role("button", name="Annotate this span").click()
    opened.get_by_role("button", name="Select an item").click()
    page.get_by_role("option", name="false positive").click()
    page.screenshot(path=screenshots / "alert.png")
