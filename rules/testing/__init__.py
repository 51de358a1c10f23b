"""Rule tests: streams of scores, and the alerts that they are to raise."""

from saeguard.rules.testing.cases import Case, Expectation, Place, Suite
from saeguard.rules.testing.coverage import Coverage, measure_coverage
from saeguard.rules.testing.judge import Failure
from saeguard.rules.testing.load import load_suite
from saeguard.rules.testing.mutate import MutationScore, mutate
from saeguard.rules.testing.run import CaseResult, Report, run_suite

__all__ = [
    "Case",
    "CaseResult",
    "Coverage",
    "Expectation",
    "Failure",
    "MutationScore",
    "Place",
    "Report",
    "Suite",
    "load_suite",
    "measure_coverage",
    "mutate",
    "run_suite",
]
