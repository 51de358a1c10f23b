"""Small rules, and test files about them."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeguard.rules import RuleErrors
from saeguard.rules.testing import CaseResult, Suite, load_suite, run_suite

RULES = """\
version: 1
ruleset: {name: small, version: "1"}
features:
  lie: {sae: {path: sae}, index: 1}
  calm: {sae: {path: sae}, index: 2}
  unused: {sae: {path: sae}, index: 3}
rules:
  - id: 00000000-0000-0000-0000-000000000001
    name: lying
    title: Lying
    status: test
    severity: high
    scope: {phase: [answer], model: ["good/*"]}
    signals:
      lie: {feature: lie, agg: count, over: 2.0, window: 4 tokens, gte: 2}
      calm: {feature: calm, agg: mean, window: 4 tokens, gte: 1.0}
    condition: lie and not calm
    limit: {per: request, max: 2}
    exceptions: [{name: tester, when: {tenant: [tester]}, reason: "tests", expires: 2026-06-30}]
  - id: 00000000-0000-0000-0000-000000000002
    name: block
    title: A building block
    status: test
    severity: low
    emit: false
    scope: {phase: [reasoning]}
    signals: {high: {feature: lie, agg: max, window: 2 tokens, gte: 5.0}}
    condition: high
  - id: 00000000-0000-0000-0000-000000000003
    name: again
    title: Again and again
    status: test
    severity: medium
    correlate: {type: event_count, rules: [block], group_by: [tenant], timespan: 10m, gte: 2}
"""


def write_suite(folder: Path, tests: str, rules: str = RULES) -> Path:
    """A test file beside `rules.yaml`; `tests` are the items of its list."""
    (folder / "rules.yaml").write_text(rules)
    path = folder / "small_test.yaml"
    path.write_text(f"rules: [rules.yaml]\ntests:\n{tests}")
    return path


def suite_of(folder: Path, tests: str, rules: str = RULES) -> Suite:
    return load_suite(write_suite(folder, tests, rules))


def run(folder: Path, tests: str, rules: str = RULES) -> list[CaseResult]:
    return list(run_suite(suite_of(folder, tests, rules)))


def outcome(folder: Path, test: str) -> tuple[str, list[str]]:
    """Status of the one test, and what it says about each failure."""
    (result,) = run(folder, test)
    return result.status, [report.failure.message for report in result.reports]


def findings(folder: Path, tests: str, rules: str = RULES) -> list[str]:
    """`line:column: message` of everything wrong with the test file."""
    with pytest.raises(RuleErrors) as caught:
        suite_of(folder, tests, rules)
    return [f"{error.line}:{error.column}: {error.message}" for error in caught.value.errors]
