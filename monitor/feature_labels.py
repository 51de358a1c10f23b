"""What features are said to mean: explanations that were exported from Neuronpedia, read offline.

A file of JSON lines, as it is or gzipped, or a folder of such. A line is an explanation
(`modelId`, `layer`, `index`, `description`, `typeName`, `explanationModelName`, `createdAt`), or a
feature with a list of them as `explanations`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeguard.monitor.errors import SaeguardError

_MAX_TEXT = 2000
_ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz")


class LabelsError(SaeguardError):
    """A file of labels cannot be read."""


@dataclass(frozen=True, slots=True)
class FeatureLabel:
    """What somebody or something says that a feature means."""

    sae: str
    """`model/source`, as Neuronpedia names the SAE."""
    index: int
    text: str
    method: str
    """How it was found, and by which model."""
    date: str
    """When, as the file has it; empty where it does not say."""
    file: str

    @property
    def url(self) -> str:
        return neuronpedia_url(self.sae, self.index)


LabelTable = Mapping[tuple[str, int], FeatureLabel]


def neuronpedia_url(sae: str, index: int) -> str:
    """A feature's page."""
    return f"https://www.neuronpedia.org/{sae}/{index}"


def newest(labels: Iterable[FeatureLabel]) -> LabelTable:
    """By SAE and index; of several labels of a feature the one with the latest date."""
    table: dict[tuple[str, int], FeatureLabel] = {}
    for label in labels:
        known = table.get((label.sae, label.index))
        if known is None or label.date > known.date:
            table[label.sae, label.index] = label
    return table


def read_labels(path: Path) -> Iterator[FeatureLabel]:
    """All labels of a file, or of the files of a folder.

    Raises:
        LabelsError: there is none, or a line is no explanation.
    """
    if not path.is_dir():
        yield from _read_file(path)
        return
    files = sorted(file for file in path.iterdir() if file.name.endswith(_ENDINGS))
    if not files:
        raise LabelsError(f"{path}: has no {', '.join(_ENDINGS)} file")
    for file in files:
        yield from _read_file(file)


def _read_file(path: Path) -> Iterator[FeatureLabel]:
    try:
        for place, row in _rows(path):
            try:
                yield from _labels(row, path.name)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                lacks = f"it has no {error.args[0]}" if isinstance(error, KeyError) else error
                raise LabelsError(
                    f"{place}: is no explanation of a feature: {lacks}",
                    "it needs modelId, layer, index and description",
                ) from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read: {error}") from error


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each with its place, for people."""
    is_lines = path.name.removesuffix(".gz").endswith(".jsonl")
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        if is_lines:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", _parse(line, f"{path}:{number}")
        else:
            value = _parse(file.read(), str(path))
            if isinstance(value, dict) and "modelId" not in value:  # an answer of the API
                value = value.get("explanations", value)
            rows = value if isinstance(value, list) else [value]
            yield from ((f"{path}: entry {number}", row) for number, row in enumerate(rows, 1))


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{place}: is no JSON: {error}") from error


def _labels(row: Any, file: str) -> Iterator[FeatureLabel]:
    if not isinstance(row, dict):
        raise TypeError("it is no JSON object")
    if "explanations" in row:
        place = {key: row[key] for key in ("modelId", "layer", "index")}
        for explanation in row["explanations"]:
            yield from _labels({**place, **explanation}, file)
        return
    text = " ".join(str(row["description"]).split())[:_MAX_TEXT]
    if not text:
        return
    by = [str(row.get(key) or "") for key in ("typeName", "explanationModelName")]
    yield FeatureLabel(
        sae=f"{row['modelId']}/{row['layer']}",
        index=int(row["index"]),
        text=text,
        method=" by ".join(filter(None, by)),
        date=str(row.get("createdAt") or "")[:10],
        file=file,
    )
