"""`saeguard.yaml`: the documented example loads, and faults have a place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saeguard.monitor.config import load_config
from saeguard.monitor.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def test_the_example_of_the_documentation_loads(tmp_path: Path):
    text = (ROOT / "docs" / "configuration.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block
    (tmp_path / "saeguard.yaml").write_text(block[1])
    config = load_config(tmp_path / "saeguard.yaml")
    assert config.rules == ((tmp_path / "rules.yaml").resolve(),)
    assert config.capture_text == "off"
    assert config.destinations[0].options == {"endpoint": "http://localhost:4318"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "saeguard.yaml:1:1: rules"),
        ("version: 1\nrules: [a]\nwatchlist: w\nfial: open\n", "saeguard.yaml:4:1: fial"),
        ("version: 2\nrules: [a]\nwatchlist: w\n", "saeguard.yaml:1:1: version"),
        ("version: 1\nrules: [a]\nwatchlist: w\nstart_monitor: false\n", "run_dir"),
        ("- 1\n", "expected a mapping"),
        ("", "empty"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, text: str, message: str):
    (tmp_path / "saeguard.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(tmp_path / "saeguard.yaml")
