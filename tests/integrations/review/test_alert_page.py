"""The page of one alert: where features come from, what is around it, who has judged it how."""

from __future__ import annotations

import json
import re
import time
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from records import ANSWER, PROMPT, REASONING, make_alert, make_request
from review_pages import browser, keep, listed, say

from saeguard.integrations.review.calibrations import read_calibrations
from saeguard.integrations.review.cards import cards_of
from saeguard.integrations.review.charts import score_chart
from saeguard.integrations.review.views import strip_of
from saeguard.monitor.alerts import Coverage, SignalReading
from saeguard.monitor.recordings import recorded_request
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.store import Store
from saeguard.monitor.verdict_tests import RuleFiles
from saeguard.monitor.watchlist import Site, WatchedFeature, build
from saeguard.rules import load_rules
from saeguard.rules.calibration.peaks import peaks_as_json, peaks_of
from saeguard.rules.calibration.statistics import as_json, statistics_of

NAN = float("nan")
HOUR_NS = 3_600_000_000_000
HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.sqlite"
    Store(path).close()
    return path


def watchlist_of(*features: WatchedFeature):
    n = len(features)
    site = Site(
        hook_point=HookPoint(7), features=features, weight=np.eye(n, 4, dtype=np.float32),
        bias=np.zeros(n, np.float32), threshold=np.zeros(n, np.float32),
        golden_inputs=np.zeros((1, 4), np.float32), golden_scores=np.zeros((1, n), np.float32),
    )  # fmt: skip
    return build(4, [site])


def words(html: str) -> str:
    """The text of a page, its white space as single blanks."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", html)))


def test_a_card_says_where_a_feature_comes_from_and_on_which_tokens_it_was_most(path: Path):
    feature = WatchedFeature("deceit", "sae", "layer-7", "ab" * 32, 42, label="intends to mislead")
    watchlist = watchlist_of(feature)
    request = make_request(
        req_id="r",
        phases=[PROMPT, ANSWER, ANSWER],
        scores=[9.0, 0.0, 7.21],
        texts=["<b>", "a", "z"],
    )
    alert = make_alert(req_id="r", phase="answer", watchlist=watchlist.digest)
    keep(path, alert, requests=[request])
    text = browser(path, watchlist=watchlist).get(f"/alerts/{alert.id}").text
    card = words(re.search(r'<section class="card">.*?</section>', text, re.DOTALL)[0])
    for told in (
        "deceit peak", "“intends to mislead”", "SAE layer-7, row 42", "blocks.7.hook_resid_post",
        "not calibrated", "active on 67 %", "label from the rules", "7.21 in the answer",
        "<b> 9.00 prompt 0 z 7.21 answer 2",
    ):  # fmt: skip
        assert told in card
    assert "may be wrong" in text
    assert "neuronpedia.org" not in text


def test_a_pinned_label_is_shown_with_its_origin_and_a_link_that_only_a_reader_follows(path: Path):
    feature = WatchedFeature(
        "deceit", "sae", "layer-7", "ab" * 32, 42, label="intends to mislead",
        label_source="labels.jsonl", label_method="oai_token-act-pair, gpt-4o",
        label_date="2026-01-02", neuronpedia="gemma-2-2b/20-res-16k",
    )  # fmt: skip
    watchlist = watchlist_of(feature)
    alert = make_alert(req_id="r", watchlist=watchlist.digest, feature_links=watchlist.links)
    keep(path, alert, requests=[make_request(req_id="r")])
    page = browser(path, watchlist=watchlist)
    text = page.get(f"/alerts/{alert.id}").text
    assert "label from labels.jsonl, oai_token-act-pair, gpt-4o, 2026-01-02" in words(text)
    url = "https://www.neuronpedia.org/gemma-2-2b/20-res-16k/42"
    assert f'<a href="{url}" rel="noopener noreferrer">' in text
    assert text.count("https://") == 1
    exported = page.get(f"/alerts/{alert.id}/export").text
    assert url in words(exported)
    assert "<a " not in exported


def test_a_card_says_nothing_of_another_watchlist(path: Path):
    alert = make_alert(req_id="r")
    keep(path, alert, requests=[make_request(req_id="r")])
    watchlist = watchlist_of(WatchedFeature("deceit", "sae", "layer-7", "ab" * 32, 42))
    text = browser(path, watchlist=watchlist).get(f"/alerts/{alert.id}").text
    assert "another watchlist than the one configured" in text
    assert "layer-7" not in text
    assert "Start with --config" in browser(path).get(f"/alerts/{alert.id}").text


def test_a_peak_is_compared_with_those_of_the_same_phase_in_other_requests(path: Path):
    requests = [
        make_request(req_id=f"r{i}", phases=[PROMPT, ANSWER], scores=[99.0, peak], texts=None)
        for i, peak in enumerate([1.0, 5.0, 7.0, NAN, 2.0])
    ]
    alert = make_alert(req_id="r1", position=1, phase="answer")
    keep(path, alert, requests=requests)
    (card,) = cards_of(path, alert, requests[1], None)
    assert (card.standing.peak, card.standing.num_lower, card.standing.num_others) == (5.0, 2, 3)
    assert [token.value for token in card.top] == [99.0, 5.0]
    assert "higher than in 2 of 3" in words(browser(path).get(f"/alerts/{alert.id}").text)


def test_every_feature_of_a_group_has_a_card(path: Path):
    turn = SignalReading("turn", "l2(deceit, calm)", "max", 9.0, "gte", 4.0, True, 1)
    alert = make_alert(req_id="r", signals=[turn])
    scores = np.array([[1.0, 2.0, 3.0]] * 3)
    request = make_request(req_id="r", features=["other", "calm", "deceit"], scores=scores)
    keep(path, alert, requests=[request])
    assert [card.name for card in cards_of(path, alert, request, None)] == ["deceit", "calm"]
    options = re.findall(r"<option[^>]*>(\w+)", browser(path).get(f"/alerts/{alert.id}").text)
    assert options == ["deceit", "calm", "other"]


@pytest.mark.parametrize(
    ("agg", "comparison", "threshold"),
    [("max", "gte", 4.0), ("count", "gte", None), ("max", "lt", None)],
)
def test_only_a_threshold_of_scores_is_drawn_among_scores(path, agg, comparison, threshold):
    signal = SignalReading("peak", "deceit", agg, 7.21, comparison, 4.0, True, 2)
    alert = make_alert(signals=[signal])
    strip = strip_of(alert, make_request(), "deceit")
    assert strip.threshold == threshold
    assert (score_chart(strip).threshold is None) == (threshold is None)


def test_the_drawing_has_each_score_at_its_place_negative_ones_below_zero():
    request = make_request(scores=[NAN, -2.0, 4.0], phases=[PROMPT, PROMPT, REASONING])
    chart = score_chart(strip_of(make_alert(), request, "deceit"))
    assert [(bar.x, bar.title, bar.is_marked) for bar in chart.bars] == [
        (1, "1: -2.00", False), (2, "2: 4.00", True),
    ]  # fmt: skip
    below, above = chart.bars
    assert below.y == pytest.approx(chart.zero)
    assert above.y + above.height == pytest.approx(chart.zero)
    assert above.height == pytest.approx(2 * below.height, abs=0.02)
    assert [(band.name, band.x, band.width) for band in chart.bands] == [
        ("prompt", 0, 2), ("reasoning", 2, 1),
    ]  # fmt: skip
    assert (chart.evidence.x, chart.evidence.width) == (1, 2)


def test_what_was_seen_of_the_request_is_told_for_the_alert_and_for_the_end(path: Path):
    at_end = Coverage(scheduled=9, observed=4, cached=2, unseen={"dropped_frame": 3})
    alert = make_alert(req_id="r")
    request = make_request(req_id="r", coverage=at_end, opt_outs={"lying": "granted"})
    keep(path, alert, requests=[request])
    text = words(browser(path).get(f"/alerts/{alert.id}").text)
    assert "when the rule fired 6 3 2 1 evicted 1" in text
    assert "at its end 9 4 2 3 dropped frame 3" in text
    assert "lying (granted)" in text


def test_the_last_day_of_the_rule_is_drawn_hour_by_hour(path: Path):
    now_ns = time.time_ns()
    ages_h = (0.5, 0.6, 3.5, 23.5, 24.5)
    alerts = [make_alert(time_ns=now_ns - int(age * HOUR_NS)) for age in ages_h]
    other = make_alert(rule_name="other")
    keep(path, *alerts, other)
    text = browser(path).get(f"/alerts/{alerts[2].id}").text
    assert "deceit_in_reasoning: 4 alerts in the last 24 hours" in words(text)
    bars = re.findall(
        r'<rect class="bar( firing)?"[^/]*/><rect[^/]*/><title>[^:]*:\d\d UTC: (\d+)', text
    )
    assert [int(count) for _, count in bars] == [1, *[0] * 19, 1, 0, 0, 2]
    assert [bool(mark) for mark, _ in bars].index(True) == 20
    text = words(browser(path).get(f"/alerts/{alerts[4].id}").text)
    assert "in the 24 hours about it" in text


def test_other_alerts_of_the_request_and_of_the_tenant_are_at_hand(path: Path):
    alert, twin = make_alert(req_id="r"), make_alert(req_id="r", rule_title="The twin")
    tenants = make_alert(req_id="s", rule_title="Of the tenant")
    stranger = make_alert(req_id="t", rule_title="Of acme's rival", tenant="rival of acme")
    keep(path, alert, twin, tenants, stranger)
    text = browser(path).get(f"/alerts/{alert.id}").text
    same_request, same_tenant = text.split("In the same request")[1].split("Of tenant acme")
    assert twin.id in same_request
    assert tenants.id in same_tenant
    assert stranger.id not in same_tenant


def test_the_next_alert_is_that_of_the_list_one_came_from(path: Path):
    alerts = [make_alert(rule_name=name) for name in ("a", "b", "a", "b", "a")]
    keep(path, *alerts)
    page = browser(path)
    assert listed(page, "?rule=a&blind=1") == [alerts[i].id for i in (4, 2, 0)]
    text = page.get(f"/alerts/{alerts[2].id}?rule=a&blind=1").text
    assert f'rel="prev" href="/alerts/{alerts[4].id}?rule=a&amp;blind=1"' in text
    assert f'rel="next" href="/alerts/{alerts[0].id}?rule=a&amp;blind=1"' in text
    assert f'action="/alerts/{alerts[2].id}/verdict?rule=a&amp;blind=1"' in text
    assert '<a href="/?rule=a&amp;blind=1"' in text, "the way back to the list"


def test_who_is_blind_sees_neither_rule_nor_severity_nor_other_verdicts(path: Path):
    alert = make_alert(req_id="r", severity="critical", tags=["harm.secret"], message="it lies")
    keep(
        path,
        alert,
        make_alert(req_id="r", rule_title="The twin"),
        requests=[make_request(req_id="r")],
    )
    page = browser(path)
    say(page, alert.id, "benign", comment="harmless", reviewer="bob")
    say(page, alert.id, "none", reviewer="ada")
    telling = (
        "critical", "Deceit in the chain", "deceit_in_reasoning", "it lies", "harm.secret",
        "≥ 4", "harmless", "The twin",
    )  # fmt: skip
    for url in ("/", f"/alerts/{alert.id}"):
        seen = page.get(f"{url}?blind=1").text.split("</form>", 1)[1]
        assert [word for word in telling if word in seen] == []
    assert [w for w in telling if w not in page.get(f"/alerts/{alert.id}").text] == []
    assert say(page, alert.id, "true_positive", "?blind=1", reviewer="ada") == 303
    text = page.get(f"/alerts/{alert.id}?blind=1").text
    assert [w for w in telling if w not in text] == [], "from the verdict on all is shown"
    assert "The reviewers disagree: ada true positive , bob benign" in words(text)


def test_two_reviewers_agree_or_not_and_the_list_finds_where_they_do_not(path: Path):
    agreed, disputed = make_alert(), make_alert()
    keep(path, agreed, disputed)
    page = browser(path)
    assert "have judged" not in page.get("/").text
    for alert, verdicts in ((agreed, ("benign", "benign")), (disputed, ("benign", "unsure"))):
        for name, verdict in zip(("ada", "bob"), verdicts, strict=True):
            say(page, alert.id, verdict, reviewer=name)
    assert "The reviewers agree" in words(page.get(f"/alerts/{agreed.id}").text)
    assert "reviewers agree on 1 of the 2 that several have judged" in words(page.get("/").text)
    assert listed(page, "?verdict=disputed") == [disputed.id]
    say(page, disputed.id, "none", reviewer="bob")
    assert listed(page, "?verdict=disputed") == []
    assert listed(page, "?verdict=benign") == [disputed.id, agreed.id], "ada's word still stands"


def test_the_reviewer_s_name_is_remembered_and_nothing_can_hide_in_it(path: Path):
    alert = make_alert()
    keep(path, alert)
    page = browser(path)
    say(page, alert.id, "benign", reviewer='"ada" \x1b\u202e é')
    text = page.get(f"/alerts/{alert.id}").text
    assert (
        'name="reviewer" maxlength="100" autocomplete="nickname" value="&#34;ada&#34;  é"' in text
    )


RULES = """
version: 1
ruleset: {name: core, version: 1.0.0}
features:
  deceit: {probe: {path: probe.safetensors}, name: deceit}
rules:
  - id: 7d1c0c1e-5a0a-4b7c-8a5f-1c1f6f0c9b11
    name: deceit_in_reasoning
    title: Deceit
    status: test
    severity: high
    scope: {phase: [reasoning]}
    signals: {peak: {feature: deceit, agg: max, window: 2 tokens, gte: 4.0}}
    condition: peak
    message: "a lie"
    tags: [harm.deception]
"""


def test_a_verdict_becomes_a_rule_test_with_one_click(path: Path, tmp_path: Path):
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    alert = make_alert(req_id="r", ruleset_sha256=load_rules([rules]).sha256)
    keep(path, alert, requests=[make_request(req_id="r")])
    page = browser(path, rules=RuleFiles((rules,), tmp_path))
    link = f'href="/alerts/{alert.id}/test"'
    assert link not in page.get(f"/alerts/{alert.id}").text, "there is no verdict yet"
    refused = page.get(f"/alerts/{alert.id}/test")
    assert refused.status_code == 409
    assert "nobody has said" in refused.text
    say(page, alert.id, "true_positive", reviewer="ada")
    assert link in page.get(f"/alerts/{alert.id}").text
    reply = page.get(f"/alerts/{alert.id}/test")
    name = f"deceit_in_reasoning-{alert.id[-12:]}_test.yaml"
    assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert "deceit: 7.21" in reply.text
    say(page, alert.id, "benign", reviewer="bob")
    assert "as long as the reviewers disagree" in page.get(f"/alerts/{alert.id}").text
    assert browser(path).get(f"/alerts/{alert.id}/test").status_code == 409


def test_what_models_and_clients_write_stays_text_in_every_part_of_the_page(path: Path):
    watchlist = watchlist_of(WatchedFeature("deceit", "sae", HOSTILE, "ab" * 32, 42, label=HOSTILE))
    request = make_request(
        req_id="r", texts=[HOSTILE] * 3, reason=HOSTILE, opt_outs={HOSTILE: "unknown"},
        coverage=Coverage(scheduled=3, unseen={HOSTILE: 3}),
    )  # fmt: skip
    alert, twin, other = (
        make_alert(
            req_id=req_id, rule_title=HOSTILE, tenant=HOSTILE, watchlist=watchlist.digest,
            ruleset_name=HOSTILE, feature_labels={"deceit": HOSTILE},
        )
        for req_id in ("r", "r", "s")
    )  # fmt: skip
    keep(path, alert, twin, other, requests=[request])
    page = browser(path, watchlist=watchlist)
    say(page, alert.id, "benign", comment=HOSTILE, reviewer=HOSTILE)
    for url in (f"/alerts/{alert.id}", f"/alerts/{alert.id}/export", f"/alerts/{alert.id}?blind=1"):
        text = page.get(url).text
        assert "<script>alert" not in text
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "style=" not in text
        assert not re.findall(r"<[^>]*\son\w+=", text), "no handlers"


def test_an_exported_alert_loads_nothing_and_runs_nothing(path: Path):
    alert = make_alert(req_id="r")
    keep(path, alert, requests=[make_request(req_id="r")])
    text = browser(path).get(f"/alerts/{alert.id}/export").text
    assert "default-src 'none'" in text
    assert not re.findall(r"<(?:script|link|form|a|img|button)\b", text)
    assert "<svg" in text
    assert "not calibrated" in text
    assert "--config" not in text, "what is missing where the page runs is nobody else's business"


def calibrate(directory: Path, watchlist: str) -> None:
    """Leave a record beside the rules: 99 negatives that peak at 1 to 99, a positive at 50."""
    peaks = [float(peak) for peak in range(1, 100)]
    requests = [
        recorded_request(make_request(scores=[0.0, 0.0, peak], phases=[ANSWER] * 3, texts=None))
        for peak in [*peaks, 50.0]
    ]
    record = {
        "watchlists": [watchlist] if watchlist else [],
        "statistics": as_json(statistics_of(requests)),
        "peaks": peaks_as_json(peaks_of(requests, [False] * 99 + [True])),
    }
    (directory / "rules.calibration.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("known", "told"),
    [
        ("w", "active on 33 % of 300 answer tokens of the calibration; here"),
        ("", "active on 33 % of 300 answer tokens of the calibration (of which watchlist is not"),
        ("other", "calibrated with another watchlist only; here"),
    ],
)
def test_a_card_says_where_the_value_lies_in_the_calibration(path: Path, known, told):
    calibrate(path.parent, known)
    request = make_request(req_id="r", scores=[0.0, 95.0, 80.5], phases=[PROMPT, PROMPT, ANSWER])
    alert = make_alert(req_id="r", phase="answer", watchlist="w")
    keep(path, alert, requests=[request])
    for rules in ("rules.yaml", "."):
        records = read_calibrations([path.parent / rules, "pack:deception"])
        text = words(browser(path, calibrations=records).get(f"/alerts/{alert.id}").text)
        assert told in text
        place = re.search(r"above that of 100 % of 1 positives, and of (\S+) % of 99 neg", text)
        assert (place is not None) == (known != "other")
        if place:
            assert float(place[1]) == pytest.approx(100 * 80 / 99, abs=2)


@pytest.mark.parametrize("damage", ["{", "[]", '{"statistics": 5}', '{"statistics": {}}'])
def test_a_damaged_record_of_a_calibration_keeps_nobody_from_reviewing(path: Path, damage: str):
    (path.parent / "rules.calibration.json").write_text(damage)
    assert read_calibrations([path.parent / "rules.yaml"]) == []
