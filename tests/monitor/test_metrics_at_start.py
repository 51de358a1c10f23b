"""Every series is there, at zero, before anything has happened: a first alert has to be an increase
in the eyes of Prometheus.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from fake_engine import ON_A_LIE
from prometheus_client.parser import text_string_to_metric_families
from prometheus_server import free_port
from running_monitor import LIE, QUIET, Monitor, running_monitor, wait_for

from saeguard.monitor.activations import BOUNDS, EVERY
from saeguard.monitor.alerts import UNSEEN_REASONS
from saeguard.monitor.histograms import TO_DESTINATION_S, TO_RECORD_S, WITHIN_S
from saeguard.monitor.metric_names import COUNTERS, GAUGES, HISTOGRAMS

EXCEPTION = "{name: legal, when: {tenant: [legal]}, reason: a ticket, expires: 2099-01-31}"
RULES = (
    "version: 1\nruleset: {name: many, version: 1.0.0}\nrules:"
    + ON_A_LIE.format(number=1, name="ending", more="action: stop")
    + ON_A_LIE.format(number=2, name="seen", more="emit: false")
    + ON_A_LIE.format(number=3, name="careful", more="min_coverage: 90%")
    + ON_A_LIE.format(number=4, name="excused", more=f"exceptions: [{EXCEPTION}]")
)
RULE_NAMES = ["careful", "deception", "ending", "excused"]
Series = tuple[str, frozenset[tuple[str, str]]]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def monitor(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Monitor]:
    directory = tmp_path_factory.mktemp("fresh")
    (directory / "more.yaml").write_text(RULES)
    rules, metrics = ["rules.yaml", "more.yaml"], {"prometheus": {"port": port}}
    with running_monitor(directory, rules=rules, metrics=metrics) as monitor:
        yield monitor


def scrape(port: int) -> dict[Series, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        families = text_string_to_metric_families(reply.read().decode())
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def one(name: str, **labels: str) -> Series:
    return f"saeguard_{name}", frozenset(labels.items())


def histogram(name: str, bounds: tuple[float, ...], **labels: str) -> set[Series]:
    ends = [*map(str, map(float, bounds)), "+Inf"]
    buckets = {one(f"{name}_bucket", le=end, **labels) for end in ends}
    return buckets | {one(f"{name}_sum", **labels), one(f"{name}_count", **labels)}


def expected(destination: str) -> set[Series]:
    """All but the one that names the rules."""
    high = {"severity": "high"}
    plain = [
        "correlations_evicted_total", "frames_dropped_total", "messages_dropped_total",
        "messages_unreadable_total", "messages_failed_total", "rows_nonfinite_total",
        "rows_orphaned_total", "rows_phase_unsure_total", "rows_unevaluated_total",
        "requests_finished_total", "requests_unattended_total", "requests_end_lost_total",
        "requests_live", "taps_alive",
        "store_used_bytes", "store_stalled_s",
    ]  # fmt: skip
    return {
        *(one(name) for name in plain),
        *(one("tokens_total", coverage=c) for c in ("scheduled", "observed", "cached")),
        *(one("tokens_total", coverage="unseen", reason=r) for r in UNSEEN_REASONS),
        *(one("alerts_total", rule=rule, **high) for rule in RULE_NAMES),
        *(one("limited_total", rule=rule, **high) for rule in [*RULE_NAMES, "seen"]),
        *(one("opted_out_total", rule=rule, **high) for rule in [*RULE_NAMES, "seen"]),
        one("building_blocks_total", rule="seen", **high),
        one("suppressed_total", rule="excused", exception="legal", **high),
        one("uncovered_total", rule="careful", **high),
        *(
            one("stops_total", rule="ending", outcome=outcome, **high)
            for outcome in ("requested", "stopped", "too_late")
        ),
        *(
            one("opt_outs_total", outcome=outcome)
            for outcome in ("granted", "mandatory", "not_allowed", "unknown")
        ),
        *(one("rules_reload_total", outcome=outcome) for outcome in ("ok", "refused")),
        *(one("store_evicted_total", kind=k) for k in ("requests", "taken", "undelivered")),
        *(one("store_refused_total", kind=kind) for kind in ("alerts", "requests")),
        *(one("queue_depth", queue=queue) for queue in ("inbox", "store")),
        *(
            one("delivery_attempts_total", outcome=outcome, destination=destination)
            for outcome in ("taken", "deferred", "refused")
        ),
        one("delivery_pending", destination=destination),
        one("delivery_oldest_age_s", destination=destination),
        *histogram("evaluation_duration_s", WITHIN_S),
        *histogram("alert_latency_s", TO_RECORD_S),
        *histogram("delivery_latency_s", TO_DESTINATION_S, destination=destination),
        *(
            series
            for feature in ("deceit", "calm")
            for series in histogram("feature_score", BOUNDS, feature=feature)
        ),
    }


def test_a_fresh_monitor_has_every_series_at_zero(monitor: Monitor, port: int):
    samples = scrape(port)
    info = {series for series in samples if series[0] == "saeguard_ruleset_info"}
    assert len(info) == 1
    destination = f"otlp:{monitor.receiver.endpoint}"
    assert set(samples) - info == expected(destination)
    not_zero = {name for (name, _), value in samples.items() if value}
    assert not_zero == {"saeguard_ruleset_info", "saeguard_store_used_bytes"}


def test_every_metric_there_is_has_a_series(monitor: Monitor, port: int):
    names = {name for name, _ in scrape(port)}
    wanted = {f"saeguard_{key}_total" for key in COUNTERS} | {f"saeguard_{key}" for key in GAUGES}
    wanted |= {f"saeguard_{key}_bucket" for key in HISTOGRAMS}
    assert {name.replace("/", "_") for name in wanted} <= names


def test_what_happens_then_is_in_the_histograms(monitor: Monitor, port: int):
    scores = [QUIET] * EVERY + [LIE] * EVERY
    monitor.engine.start("req-1", [1])
    monitor.engine.step({"req-1": (0, scores)})
    monitor.engine.end("req-1", num_scheduled=len(scores))
    destination = f"otlp:{monitor.receiver.endpoint}"
    taken = one("delivery_latency_s_count", destination=destination)
    wait_for(lambda: scrape(port)[taken] >= 4, 60)
    samples = scrape(port)
    num_alerts = sum(n for (name, _), n in samples.items() if name == "saeguard_alerts_total")
    assert num_alerts == samples[taken] == samples[one("alert_latency_s_count")]
    assert 0 < samples[one("alert_latency_s_sum")] <= samples[taken] * 60
    assert samples[one("evaluation_duration_s_count")] >= 1
    # Of the sampled rows the first is the attention sink, which no rule sees.
    deceit = {
        end: samples[one("feature_score_bucket", feature="deceit", le=end)]
        for end in ("0.0", "4.0", "8.0")
    }
    assert deceit == {"0.0": 0, "4.0": 0, "8.0": 1}
    assert samples[one("feature_score_sum", feature="deceit")] == 5.0


def test_alerts_about_the_monitor_itself_have_no_latency(monitor: Monitor, port: int):
    before = scrape(port)[one("alert_latency_s_count")]
    (monitor.directory / "rules.yaml").write_text("none")
    wait_for(lambda: len(monitor.alerts(rule_name="saeguard.rules_refused")) == 1, 60)
    assert scrape(port)[one("alert_latency_s_count")] == before
