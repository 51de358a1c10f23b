"""Comments in rule files that silence lints: `# saeguard: ignore[lint, lint] reason`.

One stands on the line that a finding names, on the first line of its rule, or alone on the line
above either. A comment that gives no reason, names an unknown lint, or silences nothing is a
finding itself: an ignored warning must not outlive what it was about.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saeguard.rules.errors import Location, did_you_mean

_COMMENT = re.compile(r"#\s*saeguard:\s*ignore\b(\[(?P<lints>[^\]\n]*)\])?(?P<reason>[^\n]*)")


@dataclass(slots=True)
class Ignore:
    """One comment, and which of its lints it has silenced."""

    location: Location
    lints: tuple[str, ...]
    reason: str
    used: set[str] = field(default_factory=set)

    def faults(self, known: Collection[str]) -> Iterator[str]:
        """What is wrong with the comment, once everything was found."""
        if not self.lints:
            yield "ignore needs the names of the lints: ignore[single-token] and a reason"
        elif not self.reason:
            yield "ignore needs a reason after the brackets; until then it silences nothing"
        for lint in self.lints:
            if lint not in known:
                yield f"ignore names an unknown lint '{lint}'{did_you_mean(lint, known)}"
            elif self.reason and lint not in self.used:
                yield f"nothing here is silenced by ignore[{lint}]; remove it"


class Ignores:
    """The comments of some files, by the lines that they are for."""

    def __init__(self, texts: Mapping[Path, str]) -> None:
        self.all: list[Ignore] = []
        self._by_line: dict[tuple[Path, int], list[Ignore]] = {}
        for path, text in texts.items():
            if "saeguard:" in text:
                self._read(path, text)

    def reason(self, lint: str, places: Iterable[Location]) -> str | None:
        """Why the lint is silenced at one of the places, or None: it is not."""
        for place in places:
            for ignore in self._by_line.get((place.path, place.line), ()):
                if ignore.reason and lint in ignore.lints:
                    ignore.used.add(lint)
                    return ignore.reason
        return None

    def _read(self, path: Path, text: str) -> None:
        waiting: list[Ignore] = []
        for number, line in enumerate(text.split("\n"), 1):
            if match := _COMMENT.search(line):
                names = (name.strip() for name in (match["lints"] or "").split(","))
                location = Location(path, number, match.start() + 1)
                waiting.append(
                    Ignore(location, tuple(filter(None, names)), match["reason"].strip())
                )
            if not line.lstrip().startswith("#"):
                self._by_line[path, number] = waiting
                self.all += waiting
                waiting = []
        self.all += waiting
