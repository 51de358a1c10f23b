"""`saeguard.yaml`: the documented example loads, and faults have a place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saeguard.monitor.config import load_config
from saeguard.monitor.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TOP = "version: 1\nrules: [a]\nwatchlist: w\n"


def test_the_example_of_the_documentation_loads(tmp_path: Path):
    text = (ROOT / "docs" / "configuration.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block
    (tmp_path / "saeguard.yaml").write_text(block[1])
    config = load_config(tmp_path / "saeguard.yaml")
    assert config.rules == (tmp_path / "rules.yaml",)
    assert config.capture_text == "off"
    assert config.destinations[0].options == {"endpoint": "http://localhost:4318"}


def test_links_are_not_followed_because_they_may_lead_elsewhere_later(tmp_path: Path):
    """As in a Kubernetes ConfigMap, whose present folder is deleted with the next change."""
    (tmp_path / "..first").mkdir()
    (tmp_path / "..first" / "saeguard.yaml").write_text(TOP)
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "saeguard.yaml").symlink_to("..data/saeguard.yaml")
    config = load_config(tmp_path / "saeguard.yaml")
    assert (config.path.parent, config.rules) == (tmp_path, (tmp_path / "a",))


def test_packs_are_no_paths(tmp_path: Path):
    file = tmp_path / "saeguard.yaml"
    file.write_text("version: 1\nrules: ['pack:deception', 'rules/']\nwatchlist: w\n")
    assert load_config(file).rules == ("pack:deception", tmp_path / "rules")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "saeguard.yaml:1:1: rules"),
        ("version: 1\nrules: [a]\nwatchlist: w\nfial: open\n", "saeguard.yaml:4:1: fial"),
        ("version: 2\nrules: [a]\nwatchlist: w\n", "saeguard.yaml:1:1: version"),
        ("version: 1\nrules: [a]\nwatchlist: w\nstart_monitor: false\n", "run_dir"),
        (TOP + "phases:\n  thought: {open: a}\n", "saeguard.yaml:5:3: phases.thought"),
        (TOP + "phases:\n  system: {open: <s>}\n", "saeguard.yaml:5:3: phases.system.close"),
        (TOP + "phases:\n  reasoning: {open: ' '}\n", "5:15: phases.reasoning.open: Value error"),
        (TOP + "phases:\n  tool_call: {open: 1}\n", "5:15: phases.tool_call.open"),
        (TOP + "phases:\n  chat_template: no.jinja\n", "4:1: phases: Value error, chat_template"),
        ("- 1\n", "expected a mapping"),
        ("", "empty"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, text: str, message: str):
    (tmp_path / "saeguard.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(tmp_path / "saeguard.yaml")


def test_certificates_for_metrics_are_found_beside_the_configuration(tmp_path: Path):
    file = tmp_path / "saeguard.yaml"
    file.write_text(TOP + "metrics: {endpoint: 'https://h:4317', protocol: grpc, ca_file: ca}\n")
    metrics = load_config(file).metrics
    assert metrics is not None
    assert metrics.otlp is not None
    assert (metrics.otlp["protocol"], metrics.otlp["ca_file"]) == ("grpc", tmp_path / "ca")


def test_the_example_of_metrics_loads(tmp_path: Path):
    page = (ROOT / "docs" / "telemetry.md").read_text()
    block = re.search(r"```yaml\n(metrics:.*?)```", page, re.DOTALL)
    assert block
    (tmp_path / "saeguard.yaml").write_text(TOP + block[1])
    metrics = load_config(tmp_path / "saeguard.yaml").metrics
    assert metrics is not None
    assert metrics.otlp is not None
    assert (metrics.otlp["protocol"], metrics.interval_s) == ("grpc", 10)


def test_a_chat_template_is_found_beside_the_configuration(tmp_path: Path):
    (tmp_path / "mine.jinja").write_text("{{ messages }}")
    file = tmp_path / "saeguard.yaml"
    file.write_text(TOP + "phases: {chat_template: mine.jinja, reasoning: {open: <r>}}\n")
    phases = load_config(file).phases
    assert phases.chat_template == tmp_path / "mine.jinja"
    assert phases.reasoning is not None
    assert (phases.reasoning.open, phases.reasoning.close) == ("<r>", None)


def test_the_example_of_configured_phases_loads(tmp_path: Path):
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "phases.md").read_text(), re.DOTALL)
    assert block
    (tmp_path / "our-template.jinja").touch()
    (tmp_path / "saeguard.yaml").write_text(TOP + block[1])
    phases = load_config(tmp_path / "saeguard.yaml").phases
    assert phases.tool_call is not None
    assert phases.tool_call.close is None
