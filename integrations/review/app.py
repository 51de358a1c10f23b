"""The review page's routes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from saeguard.integrations.review import views
from saeguard.integrations.review.guard import Guard
from saeguard.monitor import alert_search, store, verdicts
from saeguard.monitor.alerts import SEVERITIES
from saeguard.monitor.logging import printable
from saeguard.monitor.store_file import StoreError

HERE = Path(__file__).parent
PAGE_SIZE = 50
DAY_NS = 86_400_000_000_000
MAX_COMMENT = 2000
CHOICES = ("true_positive", "false_positive", "benign", "unsure", "acknowledged")


def review_app(path: Path, guard: Guard) -> FastAPI:
    """
    Args:
        path: of the alert store.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    templates = Jinja2Templates(HERE / "templates")
    templates.env.filters |= {
        "moment": views.moment, "number": views.number, "printable": printable,
    }  # fmt: skip
    templates.env.globals |= {"csrf": guard.csrf, "choices": CHOICES, "severities": SEVERITIES}

    def page(request: Request, name: str, **values: Any) -> HTMLResponse:
        return templates.TemplateResponse(request, name, values)

    @app.exception_handler(StoreError)
    async def _(request: Request, error: StoreError) -> Response:
        response = page(request, "error.html", message=str(error))
        response.status_code = 503
        return response

    @app.get("/")
    def list_alerts(
        request: Request, wanted: Annotated[alert_search.Wanted, Depends()], number: int = 0
    ) -> Response:
        found = alert_search.find(path, wanted, max(0, number), PAGE_SIZE)
        said = verdicts.newest(path, [alert.id for alert in found.alerts])
        last = max(0, (found.num_found - 1) // PAGE_SIZE)
        return page(
            request, "list.html", wanted=wanted, found=found, said=said,
            rules=alert_search.rules_of(path), number=min(max(0, number), last), last=last,
        )  # fmt: skip

    def alert_values(alert_id: str, feature: str) -> dict[str, Any]:
        try:
            alert = store.get_alert(path, alert_id)
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        record = store.get_request(path, alert.req_id) if alert.req_id else None
        strip, features = None, []
        if record is not None and record.features:
            features = views.features_of(alert, record)
            chosen = feature if feature in features else views.first_feature(alert, record)
            strip = views.strip_of(alert, record, chosen)
        since_ns = time.time_ns() - DAY_NS
        return {
            "alert": alert,
            "record": record,
            "strip": strip,
            "features": features,
            "signals": views.signal_rows(alert),
            "condition": views.condition_lines(alert),
            "history": verdicts.history(path, alert.id),
            "num_today": alert_search.num_of_rule(path, alert.rule_name, since_ns),
        }

    @app.get("/alerts/{alert_id}")
    def show_alert(request: Request, alert_id: str, feature: str = "") -> Response:
        values = alert_values(alert_id, feature)
        newer, older = alert_search.neighbours(path, values["alert"].id)
        return page(request, "alert.html", newer=newer, older=older, alone=False, **values)

    @app.get("/alerts/{alert_id}/export")
    def export_alert(request: Request, alert_id: str, feature: str = "") -> Response:
        """One file that needs nothing else."""
        style = (HERE / "static" / "review.css").read_text()
        values = alert_values(alert_id, feature)
        response = page(request, "alert.html", alone=True, style=style, **values)
        name = f"saeguard-{values['alert'].id}.html"
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    @app.post("/alerts/{alert_id}/verdict")
    def say(
        alert_id: str,
        csrf: Annotated[str, Form()],
        verdict: Annotated[str, Form()],
        comment: Annotated[str, Form()] = "",
        reviewer: Annotated[str, Form()] = "",
    ) -> Response:
        if not guard.check_form(csrf):
            raise HTTPException(403, "the page is older than this server: load it again")
        if verdict not in verdicts.VERDICTS:
            raise HTTPException(422, f"no verdict {verdict!r}")
        try:
            alert = store.get_alert(path, alert_id)
        except StoreError as error:
            raise HTTPException(404, str(error)) from error
        chosen = cast(verdicts.Verdict, verdict)
        verdicts.add_verdict(path, alert.id, chosen, comment[:MAX_COMMENT], reviewer[:100])
        return RedirectResponse(f"/alerts/{alert.id}", 303)

    return app
