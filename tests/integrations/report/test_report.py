"""The report of a backtest: it says what is so, needs nothing else, and nothing breaks it."""

from __future__ import annotations

import re
import shutil
from html import unescape
from pathlib import Path

import msgspec
import numpy as np
import pytest
from calibration_data import RULES, examples, load, request

from saeguard.integrations.report.figures import bin_edges, binned
from saeguard.integrations.report.page import write_html, write_plots
from saeguard.monitor.cli import swept
from saeguard.monitor.cli.backtest_report import reports_of
from saeguard.monitor.cli.swept import choose
from saeguard.rules.calibration.backtest import backtest
from saeguard.rules.calibration.curves import RuleReport
from saeguard.rules.calibration.labels import Example, Label

HOSTILE = "</svg><script>alert(1)</script>$x$\u202e"


def reports(directory: Path, known: list[Example], text: str = RULES) -> list[RuleReport]:
    ruleset = load(directory, text)
    results = backtest(ruleset, known)
    return reports_of(ruleset, known, results, [choose(each, known) for each in results], {})


def page(directory: Path, known: list[Example], text: str = RULES, hard=("hard-*",)) -> str:
    write_html(directory / "r.html", reports(directory, known, text), ["about <i>"], hard)
    return (directory / "r.html").read_text()


def words(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def of_sources(number: int) -> list[Example]:
    """Negatives from poetry and the news, one of them hostile; some in groups."""
    found = []
    for i, example in enumerate(examples(number)):
        source = "arena" if example.answers else ("hard-poetry", "news")[i // 2 % 2]
        name = f"{HOSTILE}{i}" if i < 40 else f"r{i}"
        label = msgspec.structs.replace(example.label, id=name, source=source, group=str(i // 3))
        found.append(Example(request(name, example.request.scores[:, 0]), label, example.answers))
    return found


def test_the_figures_of_a_report_are_those_of_the_backtest(tmp_path: Path):
    known = of_sources(200)
    (report,) = reports(tmp_path, known)
    curves = report.curves
    now = curves.thresholds.index(3.0)
    assert curves.recall[now] == report.result.recall
    assert curves.false_alarm_rate[now] == report.result.false_alarm_rate
    assert {case.id for case in report.cases if case.kind == "missed"} == set(report.result.missed)
    assert {case.id for case in report.cases if case.kind == "false alarm"} == set(
        report.result.false_alarms
    )
    peaks = {e.label.id: e.request.scores[4:, 0].max() for e in known}
    for case in report.cases:
        assert case.value == pytest.approx(float(peaks[case.id]), rel=0.05)
        assert case.phase == "answer"
    within = dict(curves.earliest)
    early = sum(latency <= 0 for latency in report.result.latencies)
    assert within[0].count == early
    assert curves.earliest[-1][1].count == len(report.result.latencies)
    area, low, high = curves.auroc
    assert 0.9 < low < area < high <= 1


def test_a_page_says_all_of_it_in_words_and_tells_hard_negatives_apart(tmp_path: Path):
    known = of_sources(200)
    (report,) = reports(tmp_path, known)
    html = page(tmp_path, known)
    text = words(html)
    recall = report.result.recall
    assert f"{recall.count} of {recall.total}" in text
    assert "by drawing the 67 groups again" in text
    for kind, source in (("hard negatives", "hard-poetry"), ("negatives only", "news")):
        assert re.search(f"{kind} {source}", text)
    assert html.count("<svg ") == html.count('role="img"') == 4
    assert html.count("<details>") == 3
    assert "3 (now)" in text


def test_a_page_runs_nothing_loads_nothing_and_shows_hostile_names_as_text(tmp_path: Path):
    html = page(tmp_path, of_sources(120))
    assert "default-src 'none'" in html
    assert not re.findall(r"<(?:script|iframe|object|form|img|foreignObject)\b", html)
    assert not re.findall(r"<[^>]*\son\w+=", html)
    assert "\u202e" not in html
    assert "&lt;script&gt;" in html
    addresses = re.findall(r'(?:href|src)="([^"]*)"|url\(([^)]*)\)', html)
    assert [a + b for a, b in addresses if not (a + b).startswith(("#", "data:,"))] == []
    ids = re.findall(r'\sid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    used = {(a + b).removeprefix("#") for a, b in addresses} - {"data:,"}
    assert used <= set(ids)


QUIET, LOUD = np.zeros(12), np.full(12, 5.0)


@pytest.mark.parametrize(
    "known",
    [
        [Example(request("a", LOUD), Label("a", True, source=""), True)],
        [Example(request("a", QUIET), Label("a", False), False)],
        [Example(request("a", np.full(12, np.nan)), Label("a", True), True)],
        [
            Example(request("a", LOUD * 1e30), Label("a", True, span=(5, 6)), True),
            Example(request("b", LOUD * -1e30), Label("b", False), False),
            Example(request("c", LOUD * 1e-30), Label("c", False), False),
        ],
        [Example(request("a", LOUD), Label("a", {"other": True}), {"other": True})],
    ],
    ids=["positives only", "negatives only", "never observed", "huge", "of another rule"],
)
def test_data_of_any_kind_makes_a_report(tmp_path: Path, known: list[Example]):
    assert "lying" in words(page(tmp_path, known))
    write_plots(tmp_path / "plots", reports(tmp_path, known), [], [])


def test_of_many_requests_some_are_drawn_for_the_figures_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(swept, "MAX_OF_A_SIDE", 40)
    monkeypatch.setattr(swept, "MAX_WRONG", 1)
    known = of_sources(300)
    (report,) = reports(tmp_path, known)
    result, curves = report.result, report.curves
    assert (result.recall.total, result.false_alarm_rate.total) == (150, 150)
    assert {rate.total for rate in (*curves.recall, *curves.false_alarm_rate)} == {40}
    assert [case.kind for case in report.cases] == ["missed", "false alarm"]
    assert len(result.missed) > 1
    text = words(page(tmp_path, known))
    assert (
        "figures below are of 40 of 150 positives and 40 of 150 negatives, drawn by chance" in text
    )
    assert f"1 of {len(result.missed)}, drawn by chance; all ids: --format json" in text
    assert reports(tmp_path, known)[0].cases == report.cases, "always the same ones"


def test_a_rule_of_which_no_threshold_can_be_moved_says_why(tmp_path: Path):
    text = RULES.replace("gte: 3.0", "between: [1, 2]")
    assert "say which signal: none can be set" in words(page(tmp_path, examples(20), text))


def test_plots_are_a_file_for_each_figure(tmp_path: Path):
    write_plots(tmp_path / "plots", reports(tmp_path, examples(40)), [], [])
    files = sorted((tmp_path / "plots").iterdir())
    names = ["earliest", "roc", "scores", "thresholds"]
    assert [file.name for file in files] == [f"lying-{name}.png" for name in names]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_bins_hold_all_values_and_one_outlier_does_not_put_the_others_into_one(tmp_path: Path):
    known = examples(200)
    known[0].request.scores[12, 0] = 1e20
    (report,) = reports(tmp_path, known)
    edges = bin_edges(report.curves)
    counts = binned(report.curves.positives, edges)
    assert sum(counts) == 100
    assert sum(count > 0 for count in counts) > 5
    assert edges[0] < 3.0 < edges[-1] < 100


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs the Debian package chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_a_page_fits_the_screen_with_its_colours_and_asks_for_nothing(tmp_path, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    page(tmp_path, of_sources(120))
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        asked, faults = [], []
        shown.on("request", lambda r: asked.append(r.url))
        shown.on("console", lambda message: faults.append(message.text))
        shown.goto((tmp_path / "r.html").as_uri())
        shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        line = shown.locator("svg path[style*='--pos']").first
        colours = {"light": "rgb(0, 114, 178)", "dark": "rgb(86, 180, 233)"}
        assert line.evaluate("e => getComputedStyle(e).stroke") == colours[scheme]
        browser.close()
    assert faults == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
