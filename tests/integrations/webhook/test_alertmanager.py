"""A real Alertmanager takes our alerts, groups them by what fired, and lets them be found."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
from prometheus_server import free_port
from records import make_alert
from running_monitor import wait_for

from saeguard.integrations.webhook import AlertmanagerDestination
from saeguard.monitor.delivery import DeliveryError, Sender
from saeguard.monitor.store import Store

PROGRAM = shutil.which("prometheus-alertmanager")

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="needs the Debian package prometheus-alertmanager"
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    work = tmp_path_factory.mktemp("alertmanager")
    config = work / "alertmanager.yml"
    config.write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = free_port()
    command = [
        str(PROGRAM), f"--config.file={config}", f"--storage.path={work / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    with (work / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_ready(url), 20)
        yield url
    finally:
        process.kill()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=1):
            return True
    except OSError:
        return False


def alerts_at(url: str, rule: str) -> list[dict]:
    query = f"{url}/api/v2/alerts?filter=alertname%3D%22{rule}%22"
    with urllib.request.urlopen(query, timeout=5) as reply:
        return json.load(reply)


def test_an_alert_is_there_with_its_labels_and_annotations(url: str, tmp_path: Path):
    alert = make_alert(rule_name="found_there", message="max 7.21 on ' pass'")
    with Store(tmp_path / "alerts.sqlite") as store:
        sender = Sender(store, AlertmanagerDestination(url, labels={"cluster": "eu-1"}))
        store.add_alert(alert)
        store.flush()
        assert sender.drain(10)
    (got,) = alerts_at(url, "found_there")
    assert got["labels"] == {
        "alertname": "found_there", "severity": "high", "kind": "match", "model": "org/model",
        "tenant": "acme", "cluster": "eu-1",
    }  # fmt: skip
    assert got["annotations"]["alert_id"] == alert.id
    assert got["annotations"]["description"] == alert.message
    assert got["status"]["state"] == "active"


def test_the_same_rule_for_the_same_tenant_is_one_alert(url: str):
    destination = AlertmanagerDestination(url)
    destination.deliver([make_alert(rule_name="grouped") for _ in range(3)])
    destination.deliver([make_alert(rule_name="grouped", tenant="other")])
    assert sorted(a["labels"]["tenant"] for a in alerts_at(url, "grouped")) == ["acme", "other"]


def test_an_alert_about_the_monitor_itself_is_taken(url: str):
    alert = make_alert(
        kind="health", rule_name="saeguard.blind", request_id="", req_id="", model="", tenant=None
    )
    AlertmanagerDestination(url).deliver([alert])
    (got,) = alerts_at(url, "saeguard.blind")
    assert got["labels"] == {"alertname": "saeguard.blind", "severity": "high", "kind": "health"}


def test_text_of_any_kind_and_length_is_taken(url: str):
    message = "<b>\0\x1b[2J\u202e" + "x" * 100_000
    AlertmanagerDestination(url).deliver([make_alert(rule_name="strange", message=message)])
    (got,) = alerts_at(url, "strange")
    assert got["annotations"]["description"].startswith("<b>")


def test_a_server_that_is_not_there_is_tried_again():
    with pytest.raises(DeliveryError) as error:
        AlertmanagerDestination(f"http://127.0.0.1:{free_port()}").deliver([make_alert()])
    assert error.value.retriable
