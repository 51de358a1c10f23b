"""The review page in a real browser: keys, colours, narrow screens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import ANSWER, PROMPT, make_alert, make_request
from review_process import review

from saeguard.monitor.store import Store
from saeguard.monitor.verdicts import newest

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs the Debian package chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
WORDS = [
    "The",
    "password",
    "is",
    "hidden",
    ".",
    "I",
    "will",
    "tell",
    "them",
    "that",
    "we",
    "never",
    "met",
    "\n",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("review") / "alerts.sqlite"
    rng = np.random.default_rng(0)
    with Store(path) as store:
        for number in range(3):
            req_id = f"r{number}"
            store.add_alert(make_alert(req_id=req_id, position=60, first_position=52))
            scores = np.clip(rng.normal(1, 1, (90, 1)), 0, None)
            scores[60] = 7.21
            texts = [" " + WORDS[i % len(WORDS)] for i in range(90)]
            store.add_request(
                make_request(
                    req_id=req_id, scores=scores, texts=texts, phases=[PROMPT] * 30 + [ANSWER] * 60
                )
            )
    return path


@pytest.fixture(scope="module")
def url(path: Path) -> Iterator[str]:
    with review(path) as url:
        yield url


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["wide", "narrow"])
def page(chromium: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = request.param
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(url)
    yield page
    assert not faults, "nothing is refused by the policy, nothing fails"
    context.close()


def wait_for_page(page: Any, selector: str) -> None:
    """One that has this, and whose script listens to keys."""
    page.wait_for_selector(selector)
    page.wait_for_load_state("load")


def test_an_alert_is_opened_and_judged_by_keys_alone(page: Any, path: Path):
    for key in ("j", "j", "k", "j", "Enter"):
        page.keyboard.press(key)
    wait_for_page(page, ".strip")
    alert_id = page.url.rsplit("/", 1)[1]
    page.fill("input[name=reviewer]", "ada")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    wait_for_page(page, ".history .false_positive")
    assert newest(path, [alert_id])[alert_id].reviewer == "ada"
    assert page.input_value("input[name=reviewer]") == "ada", "it is remembered"
    page.keyboard.press("z")
    wait_for_page(page, ".history .none")
    assert newest(path, [alert_id]) == {}
    page.keyboard.press("j")
    page.wait_for_url(lambda url: alert_id not in url)


def test_typing_into_a_field_does_nothing_else(page: Any, path: Path):
    page.keyboard.press("/")
    page.keyboard.type("jtf")
    assert page.input_value("[type=search]") == "jtf"
    page.keyboard.press("Enter")
    wait_for_page(page, ".none")


def test_nothing_is_wider_than_the_screen_and_the_scores_can_be_told_apart(page: Any):
    width = "document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(width)
    page.click(".alerts a")
    wait_for_page(page, ".strip")
    assert page.evaluate(width)
    firing = page.locator(".strip .t.firing")
    assert firing.get_attribute("title") == "60: 7.21"
    colour = "e => getComputedStyle(e).backgroundColor"
    shades = {page.locator(f".strip .t.s{n}").first.evaluate(colour) for n in (0, 1, 5)}
    assert len(shades) == 3
