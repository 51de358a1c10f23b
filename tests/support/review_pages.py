"""The review page without a browser: what tests of its parts share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from saeguard.integrations.review.alert_page import Sources
from saeguard.integrations.review.app import review_app
from saeguard.integrations.review.guard import Guard
from saeguard.monitor.alerts import Alert, RequestRecord
from saeguard.monitor.store import Store


def keep(path: Path, *alerts: Alert, requests: Iterable[RequestRecord] = ()) -> None:
    with Store(path) as store:
        for alert in alerts:
            store.add_alert(alert)
        for request in requests:
            store.add_request(request)


def browser(path: Path, token: str | None = None, **sources: Any) -> TestClient:
    """Keeps cookies, as a browser does.

    Args:
        sources: besides the store.
    """
    guard = Guard(token, frozenset({"localhost"}) if token is None else frozenset())
    return TestClient(review_app(Sources(path, **sources), guard), base_url="http://localhost")


def say(page: TestClient, alert_id: str, verdict: str, query: str = "", **fields: str) -> int:
    """As the form on the alert's page does."""
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.get(f"/alerts/{alert_id}").text)
    assert csrf
    form = {"csrf": csrf[1], "verdict": verdict, **fields}
    url = f"/alerts/{alert_id}/verdict{query}"
    return page.post(url, data=form, follow_redirects=False).status_code


def listed(page: TestClient, query: str = "") -> list[str]:
    return re.findall(r'<a href="/alerts/([0-9a-f-]+)[?"]', page.get(f"/{query}").text)
