"""What the readers of the layouts share."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from saeguard.integrations.saelens.tensors import Doubles, TensorFile
from saeguard.monitor.errors import CompileError


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        CompileError: it is absent or no JSON object.
    """
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CompileError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CompileError(f"{path}: is no JSON object")
    return value


def first_vector(file: TensorFile, *names: str) -> Doubles:
    """The first of these that the file has.

    Raises:
        CompileError: it has none.
    """
    for name in names:
        if name in file.shapes:
            return file.vector(name)
    raise CompileError(f"{file.path}: has no tensor {' or '.join(names)}")


def number_after(pattern: str, text: str) -> int | None:
    """The first group of the last place where the pattern fits."""
    found = re.findall(pattern, text)
    return int(found[-1]) if found else None
