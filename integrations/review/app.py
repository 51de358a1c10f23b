"""The review page's routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import quote, unquote, urlencode

from fastapi import Depends, FastAPI, Form, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException as StarletteHTTPException

from saeguard.integrations.review import views
from saeguard.integrations.review.alert_page import Sources, agreement, alert_values
from saeguard.integrations.review.guard import Guard
from saeguard.monitor import alert_search, store, verdicts
from saeguard.monitor.alert_search import Wanted
from saeguard.monitor.alerts import SEVERITIES, Alert
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.logging import printable
from saeguard.monitor.store_file import StoreError
from saeguard.monitor.verdict_tests import NoRuleTest, rule_test
from saeguard.monitor.verdicts import Said

HERE = Path(__file__).parent
PAGE_SIZE = 50
MAX_COMMENT = 2000
MAX_REVIEWER = 100
REVIEWER_COOKIE = "saeguard_reviewer"
CHOICES = ("true_positive", "false_positive", "benign", "unsure", "acknowledged")


@dataclass(frozen=True)
class Round:
    """A reviewer's way through the alerts, kept from page to page."""

    wanted: Wanted
    blind: bool
    reviewer: str

    def query(self, **more: object) -> str:
        """For links to other pages, with its question mark."""
        values = {**asdict(self.wanted), "blind": "1" if self.blind else "", **more}
        given = {name: value for name, value in values.items() if value not in ("", None, 0)}
        return f"?{urlencode(given)}" if given else ""

    def is_blind_to(self, said: Sequence[Said]) -> bool:
        """Whether what is said of an alert leaves the reviewer without a verdict on it."""
        own = [each for each in verdicts.judgements(said) if each.reviewer == self.reviewer]
        return self.blind and not own


def round_of(request: Request, wanted: Annotated[Wanted, Depends()], blind: bool = False) -> Round:
    return Round(wanted, blind, unquote(request.cookies.get(REVIEWER_COOKIE, "")))


InRound = Annotated[Round, Depends(round_of)]


def review_app(sources: Sources, guard: Guard) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(guard)
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    templates = Jinja2Templates(HERE / "templates")
    templates.env.trim_blocks = templates.env.lstrip_blocks = True
    templates.env.filters |= {
        "moment": views.moment, "number": views.number, "printable": printable,
    }  # fmt: skip
    templates.env.globals |= {"csrf": guard.csrf, "choices": CHOICES, "severities": SEVERITIES}

    def page(request: Request, name: str, **values: Any) -> HTMLResponse:
        return templates.TemplateResponse(request, name, values)

    def failure(request: Request, status: int, title: str, message: str) -> Response:
        response = page(request, "error.html", title=title, message=message)
        response.status_code = status
        return response

    @app.exception_handler(StoreError)
    async def _(request: Request, error: StoreError) -> Response:
        return failure(request, 503, "The alerts cannot be read", str(error))

    @app.exception_handler(RequestValidationError)
    async def _(request: Request, error: RequestValidationError) -> Response:
        faults = [f"{fault['loc'][-1]}: {fault['msg']}" for fault in error.errors()]
        return failure(request, 422, "This address cannot be understood", "; ".join(faults))

    @app.exception_handler(StarletteHTTPException)
    async def _(request: Request, error: StarletteHTTPException) -> Response:
        title = "Not found" if error.status_code == 404 else "This was not done"
        return failure(request, error.status_code, title, error.detail)

    def alert_of(alert_id: str) -> Alert:
        if alert := alert_search.find_one(sources.store, alert_id):
            return alert
        try:
            return store.get_alert(sources.store, alert_id)  # by a part, as `alerts list` shows it
        except StoreError as error:
            raise HTTPException(404, str(error)) from error

    def said_of(alert: Alert) -> list[Said]:
        return verdicts.standing(sources.store, [alert.id]).get(alert.id, [])

    @app.get("/")
    def list_alerts(request: Request, round: InRound, number: int = 0) -> Response:
        number = max(0, number)
        found = alert_search.find(sources.store, round.wanted, number, PAGE_SIZE)
        last = max(0, (found.num_found - 1) // PAGE_SIZE)
        return page(
            request, "list.html", round=round, found=found, number=min(number, last), last=last,
            said=verdicts.standing(sources.store, [alert.id for alert in found.alerts]),
            agreement=agreement, agreed=verdicts.agreement(sources.store),
            rules=alert_search.rules_of(sources.store),
        )  # fmt: skip

    @app.get("/alerts/{alert_id}")
    def show_alert(request: Request, alert_id: str, round: InRound, feature: str = "") -> Response:
        alert = alert_of(alert_id)
        newer, older = alert_search.neighbours(sources.store, alert.id, round.wanted)
        said = said_of(alert)
        values = alert_values(sources, alert, said, feature, round.is_blind_to(said))
        return page(
            request, "alert.html", round=round, newer=newer, older=older, alone=False,
            makes_tests=sources.rules is not None, **values,
        )  # fmt: skip

    @app.get("/alerts/{alert_id}/export")
    def export_alert(request: Request, alert_id: str, feature: str = "") -> Response:
        """One file that needs nothing else."""
        alert = alert_of(alert_id)
        style = (HERE / "static" / "review.css").read_text()
        values = alert_values(sources, alert, said_of(alert), feature)
        response = page(request, "alert.html", alone=True, style=style, **values)
        return _attached(response, f"saeguard-{alert.id}.html")

    @app.get("/alerts/{alert_id}/test")
    def make_test(request: Request, alert_id: str) -> Response:
        """The rule test that the verdicts make."""
        alert = alert_of(alert_id)
        title = "No rule test can be made of this alert"
        if sources.rules is None:
            return failure(request, 409, title, "The rules are not known here: give --config.")
        try:
            test = rule_test(sources.store, alert, sources.rules)
        except (NoRuleTest, ConfigError) as error:
            return failure(request, 409, title, str(error))
        return _attached(Response(test.text, media_type="application/yaml"), test.name)

    @app.post("/alerts/{alert_id}/verdict")
    def say(
        alert_id: str,
        round: InRound,
        csrf: Annotated[str, Form()],
        verdict: Annotated[str, Form()],
        comment: Annotated[str, Form()] = "",
        reviewer: Annotated[str, Form()] = "",
    ) -> Response:
        alert = alert_of(alert_id)
        if not guard.check_form(csrf):
            raise HTTPException(403, "the page is older than this server: load it again")
        if verdict not in verdicts.VERDICTS:
            raise HTTPException(422, f"no verdict {verdict!r}")
        chosen = cast(verdicts.Verdict, verdict)
        name = "".join(filter(str.isprintable, reviewer)).strip()[:MAX_REVIEWER]
        verdicts.add_verdict(sources.store, alert.id, chosen, comment[:MAX_COMMENT], name)
        response = RedirectResponse(f"/alerts/{alert.id}{round.query()}", 303)
        response.set_cookie(REVIEWER_COOKIE, quote(name), httponly=True, samesite="strict")
        return response

    return app


def _attached(response: Response, name: str) -> Response:
    """To be saved, not shown."""
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
