"""One mistake in a file that uses every key: one finding, where it is, and saying what it is."""

import pytest

from saeguard.rules import load_rules
from tests.rules.invalid import COMPLETE, INVALID, Wrong
from tests.rules.samples import findings


def test_the_complete_file_is_fine():
    assert len(load_rules([COMPLETE]).rules) == 6


@pytest.mark.parametrize("wrong", INVALID.values(), ids=INVALID.keys())
def test_one_mistake_yields_one_finding_at_its_place(wrong: Wrong, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(wrong.text())
    assert findings(path) == [wrong.finding()]
