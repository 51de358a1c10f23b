"""Which files a rule set consists of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from saeguard.rules.errors import Location, RuleError, RuleErrors, did_you_mean

PACKS = Path(__file__).parents[1] / "packs"
_PACK = "pack:"
_SUFFIXES = (".yaml", ".yml")
_TEST = "_test"


def is_pack(item: Path | str) -> bool:
    """Whether this names a shipped pack (`pack:deception`) and no path."""
    return str(item).startswith(_PACK)


def pack_names() -> list[str]:
    """The shipped packs."""
    return sorted(path.stem for path in PACKS.glob("*.yaml"))


def rule_files(item: Path | str) -> list[Path]:
    """The files that one item stands for: a file, those of a directory, or a pack's.

    Of a directory it is every `*.yaml` and `*.yml` directly in it, by name. Left out are tests of
    rules (`*_test.yaml`) and hidden entries, such as the `..data` of a Kubernetes ConfigMap.

    Raises:
        RuleErrors: there is no such pack, the directory has no rule files, or cannot be read.
    """
    if is_pack(item):
        return [_pack(str(item).removeprefix(_PACK))]
    path = Path(item)
    try:
        return _files_in(path) if path.is_dir() else [path]
    except OSError as error:
        raise RuleErrors([Location(path).error(error.strerror or str(error))]) from error


def _pack(name: str) -> Path:
    packs = pack_names()
    if name not in packs:
        known = f"the packs are {', '.join(packs)}" if packs else "no packs are installed"
        message = f"unknown pack '{name}'{did_you_mean(name, packs)}; {known}"
        raise RuleErrors([Location(Path(f"{_PACK}{name}")).error(message)])
    return PACKS / f"{name}.yaml"


def _files_in(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if _is_rule_file(path))
    if not files:
        raise RuleErrors([Location(folder).error("no *.yaml or *.yml file in the directory")])
    # A pipe would be waited for, for ever. A link that leads nowhere is told when it is read.
    special = [path for path in files if path.exists() and not path.is_file()]
    if special:
        raise RuleErrors([Location(path).error("not a regular file") for path in special])
    return files


def _is_rule_file(path: Path) -> bool:
    return _is_yaml(path) and not is_test(path) and not path.is_dir()


def is_test(path: Path) -> bool:
    """Whether it is named as a test file is, which lies beside the rules that it tests."""
    return _is_yaml(path) and path.stem.endswith(_TEST)


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")


def all_rule_files(items: Sequence[Path | str]) -> tuple[list[Path], list[RuleError]]:
    """The files of several items, each once, and what is wrong with the items."""
    files: dict[str, Path] = {}
    errors: list[RuleError] = []
    for item in items:
        try:
            for path in rule_files(item):
                files.setdefault(os.path.realpath(path), path)
        except RuleErrors as error:
            errors += error.errors
    return list(files.values()), errors
