"""The review page in a real browser: keys, colours, narrow screens, no script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import ANSWER, PROMPT, make_alert, make_request
from review_process import review
from running_monitor import write_config

from saeguard.monitor.store import Store
from saeguard.monitor.verdicts import newest
from saeguard.monitor.watchlist import load
from saeguard.rules import load_rules
from saeguard.rules.testing.files import run_files

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs the Debian package chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
TEXT = "The password is hidden . I will tell them that we never <b>met</b> \n"
WORDS = TEXT.split(" ")
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
CONTRAST = """element => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  let ground = element;
  const behind = (e) => numbers(getComputedStyle(e).backgroundColor);
  while (behind(ground)[3] === 0) ground = ground.parentElement;
  const pair = [light(numbers(getComputedStyle(element).color)), light(behind(ground))];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
"""WCAG's contrast of an element's text."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a configuration, and a store of three requests that raised an alert each."""
    folder = tmp_path_factory.mktemp("review")
    write_config(folder)
    versions = {
        "ruleset_sha256": load_rules([folder / "rules.yaml"]).sha256,
        "watchlist": load(folder / "watch.safetensors").digest,
        "rule_name": "deception",
        "phase": "answer",
    }
    rng = np.random.default_rng(0)
    with Store(folder / "alerts.sqlite") as store:
        for number in range(3):
            req_id = f"r{number}"
            store.add_alert(make_alert(req_id=req_id, position=60, first_position=60, **versions))
            scores = np.clip(rng.normal(1, 0.8, (90, 2)), 0, 3)
            scores[:, 1] = 0
            scores[60, 0] = 7.21
            scores[85] = np.nan
            texts = [" " + WORDS[i % len(WORDS)] for i in range(90)]
            store.add_request(
                make_request(
                    req_id=req_id, features=["deceit", "calm"], scores=scores, texts=texts,
                    phases=[PROMPT] * 30 + [ANSWER] * 60,
                )
            )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    return folder / "alerts.sqlite"


@pytest.fixture(scope="module")
def url(folder: Path, path: Path) -> Iterator[str]:
    with review(path, "--config", str(folder / "saeguard.yaml")) as url:
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


only_wide = pytest.mark.parametrize("page", [(1280, "light")], indirect=True, ids=["wide"])


def wait_for_page(page: Any, selector: str) -> None:
    """One that has this, and whose script listens to keys."""
    page.wait_for_selector(selector)
    page.wait_for_load_state("load")


def open_first(page: Any) -> str:
    """The page of the newest alert; its id."""
    page.click(".alerts a")
    wait_for_page(page, ".strip")
    return alert_id(page)


def alert_id(page: Any) -> str:
    return page.url.rsplit("/", 1)[1].partition("?")[0]


def test_an_alert_is_opened_and_judged_by_keys_alone(page: Any, path: Path):
    for key in ("j", "j", "k", "j", "Enter"):
        page.keyboard.press(key)
    wait_for_page(page, ".strip")
    opened = alert_id(page)
    page.fill("input[name=reviewer]", "ada")
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    page.keyboard.type("just a joke")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    wait_for_page(page, ".history .false_positive")
    said = newest(path, [opened])[opened]
    assert (said.reviewer, said.comment) == ("ada", "just a joke")
    assert page.input_value("input[name=reviewer]") == "ada", "it is remembered"
    page.keyboard.press("z")
    wait_for_page(page, ".history .none")
    assert newest(path, [opened]) == {}
    page.keyboard.press("j")
    page.wait_for_url(lambda url: opened not in url)
    wait_for_page(page, ".strip")
    page.keyboard.press("l")
    wait_for_page(page, ".alerts")


@only_wide
def test_typing_into_a_field_does_nothing_else(page: Any, path: Path):
    page.keyboard.press("/")
    page.keyboard.type("jtf?")
    assert page.input_value("[type=search]") == "jtf?"
    assert not page.is_visible("#keys")
    page.keyboard.press("Enter")
    wait_for_page(page, ".none")


def test_nothing_is_wider_than_the_screen_and_the_scores_can_be_told_apart(page: Any):
    assert page.evaluate(FITS)
    open_first(page)
    assert page.evaluate(FITS)
    firing = page.locator(".strip .t.firing")
    assert firing.get_attribute("title") == "60: 7.21"
    colour = "e => getComputedStyle(e).backgroundColor"
    shades = {page.locator(f".strip .t.s{n}").first.evaluate(colour) for n in (0, 1, 5)}
    assert len(shades) == 3


def test_all_text_stands_out_from_its_ground_and_the_focus_is_seen(page: Any):
    page.keyboard.press("j")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    open_first(page)
    texts = [".t.s0", ".t.s1", ".t.s2", ".t.s5", ".t.unseen", ".legend", ".severity", ".say button",
             ".card dt", ".card .label", "h3 small", "figcaption", "kbd", "main a"]  # fmt: skip
    faint = {
        text: ratio
        for text in texts
        if (ratio := page.locator(text).first.evaluate(CONTRAST)) < 4.5  # as WCAG's AA has it
    }
    assert faint == {}


def test_a_token_tells_its_score_to_keys_and_to_fingers(page: Any):
    open_first(page)
    status = page.locator("#token")
    page.keyboard.press("ArrowRight")
    assert "answer 60: 7.21" in status.inner_text()
    assert "reaches the threshold — here the rule fired" in status.inner_text()
    page.keyboard.press("ArrowLeft")
    assert "answer 59: " in status.inner_text()
    page.click('.strip .t[title^="3:"]')
    assert status.inner_text().startswith("prompt 3: ")
    assert page.locator(".pointed").count() == 1
    page.click('.strip .t[title^="85:"]')
    assert "not observed" in status.inner_text()


@only_wide
def test_a_question_mark_shows_the_keys(page: Any):
    page.keyboard.press("?")
    page.wait_for_selector("#keys", state="visible")
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    page.click("text=Keys")
    page.wait_for_selector("#keys", state="visible")
    page.keyboard.press("?")
    page.wait_for_selector("#keys", state="hidden")


@only_wide
def test_a_verdict_becomes_a_rule_test_by_one_key(page: Any, folder: Path):
    open_first(page)
    assert page.locator("a.button").count() == 0
    for key, status in (("t", "ok"), ("f", "failed")):
        page.keyboard.press(key)
        wait_for_page(page, f"button[data-key={key}][aria-pressed=true]")
        with page.expect_download() as downloading:
            page.keyboard.press("r")
        file = folder / downloading.value.suggested_filename
        downloading.value.save_as(file)
        (result,) = run_files([file])
        assert not result.errors, result.errors
        assert [case.status for case in result.results] == [status]
    page.keyboard.press("z")
    wait_for_page(page, ".history .none")


def test_who_is_blind_judges_first_and_sees_the_rule_then(page: Any):
    page.check("input[name=blind]")
    page.click("text=Show")
    page.wait_for_url("**blind=1**")
    assert "Deceit in the chain" not in page.inner_text(".alerts")
    open_first(page)
    assert page.evaluate(FITS)
    hidden = ("Deceit in the chain", "deception", "Why it fired", "Around it")
    assert [word for word in hidden if word in page.inner_text("main")] == []
    assert page.locator(".severity").count() == 0
    page.fill("input[name=reviewer]", "eve")
    page.keyboard.press("Escape")
    page.keyboard.press("u")
    wait_for_page(page, ".history .unsure")
    assert [word for word in hidden if word not in page.inner_text("main")] == []
    page.keyboard.press("z")
    wait_for_page(page, "h1:has-text('An alert to judge')")


def test_without_script_verdicts_can_be_given_all_the_same(chromium: Any, url: str, path: Path):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(url)
    page.click(".alerts a")
    page.wait_for_selector(".strip")
    page.fill("input[name=reviewer]", "no-script")
    page.click("button[value=benign]")
    page.wait_for_selector(".history .benign")
    assert newest(path, [alert_id(page)])[alert_id(page)].reviewer == "no-script"
    page.click("text=Keys")
    page.wait_for_selector("#keys", state="visible")
    page.keyboard.press("Escape")
    page.click("button[value=none]")
    page.wait_for_selector(".history .none")
    context.close()
