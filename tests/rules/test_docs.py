"""The rules in the documentation are rules."""

import re
from datetime import date
from pathlib import Path

from saeguard.rules import load_rules

BLOCKS = re.findall(
    r"```yaml\n(.*?)```",
    (Path(__file__).parents[2] / "docs" / "rules.md").read_text(),
    re.DOTALL,
)
RULE = BLOCKS[0]


def test_the_first_rule_takes_the_lists_limit_and_exceptions_shown_later(tmp_path):
    (shown,) = [block for block in BLOCKS if "exceptions:" in block and "lists:" in block]
    lists, rule = shown.split("rules:\n")
    _, keys = rule.split("# …\n")
    scope = "    scope: {phase: [reasoning]}\n"
    assert scope in RULE
    path = tmp_path / "rules.yaml"
    path.write_text(RULE.replace("rules:\n", f"{lists}rules:\n").replace(scope, keys))
    (loaded,) = load_rules([path]).rules
    (exemption,) = loaded.exceptions
    assert (loaded.scope.tenants, loaded.limit.every_s) == (("acme-*",), 3600)
    assert (exemption.tenants, exemption.expires) == (("red-*", "pentest"), date(2027, 3, 1))


def test_the_first_rule_takes_the_overlay_shown_later(tmp_path):
    (overlay,) = [block for block in BLOCKS if block.startswith("overlays:")]
    path = tmp_path / "rules.yaml"
    path.write_text(RULE + overlay)
    assert load_rules([path]).rules[0].severity == "medium"
