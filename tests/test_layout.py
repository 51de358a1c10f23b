"""The project's shape: packages that are installed, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = {
    "rules": ("saeguard.monitor", "saeguard.integrations", "torch", "vllm", "transformers"),
    "monitor": ("saeguard.integrations", "torch", "vllm", "transformers", "sae_lens"),
    "integrations": ("sae_lens", "transformer_lens"),
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_every_package_is_in_the_wheel():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = sorted(
        "saeguard." + ".".join(path.parent.relative_to(ROOT).parts)
        for top in FORBIDDEN
        for path in (ROOT / top).rglob("__init__.py")
    )
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str):
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imports(path)
        for forbidden in FORBIDDEN[package]
        if name == forbidden or name.startswith(f"{forbidden}.")
    ]
    assert wrong == []


def test_only_the_vllm_package_imports_vllm():
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "integrations").rglob("*.py")
        if "vllm" not in path.relative_to(ROOT / "integrations").parts
        and any(name.split(".")[0] == "vllm" for name in imports(path))
    ]
    assert wrong == []


def test_the_rule_language_needs_neither_torch_nor_vllm():
    code = "import sys, saeguard.rules; print(sorted({'torch', 'vllm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
