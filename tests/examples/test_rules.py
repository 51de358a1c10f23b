"""The example rules pass their tests, which cover every signal and notice every changed number."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeguard.rules.testing.files import (
    find_test_files,
    run_files,
    total_coverage,
    total_mutation_score,
)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.parametrize("folder", ["rules", "organism"])
def test_the_tests_of_the_example_rules_miss_nothing(folder):
    files = list(run_files(find_test_files([EXAMPLES / folder])))
    assert files
    assert not any(file.failed for file in files)
    assert list(map(str, total_coverage(files).missing)) == []
    assert total_mutation_score(files).survivors == []
