"""Runs the commands of a page of documentation in one shell, and compares what they print.

A block that begins with ```console holds commands (`$ `, continued by a backslash) and what they
print on standard output, where `...` stands for anything. Numbers may be off by a tenth, and by 3
where they are whole, by 0.06 where they are not: another machine's model answers a little
differently. ```yaml NAME is the content of a file. Where nothing is shown, nothing is compared.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_BLOCK = re.compile(r"^```(console|yaml)(?: (\S+))?\n(.*?)^```$", re.M | re.S)
_NUMBER = re.compile(r"(?<![\d.,])-?\d[\d,]*(?:\.\d+)?(?!\d)")
_END = "=== end of command"


@dataclass(frozen=True, slots=True)
class Step:
    """A command with what it shows, or a file to be written."""

    command: str = ""
    expected: str = ""
    file: str = ""
    content: str = ""


def steps_of(page: Path) -> Iterator[Step]:
    """In the order of the page."""
    for kind, name, text in _BLOCK.findall(page.read_text()):
        if kind == "yaml" and name:
            yield Step(file=name, content=text)
        elif kind == "console":
            for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
                found = re.match(r"((?:.*\\\n)*.*)\n?", part)
                assert found
                yield Step(command=found[1], expected=part[found.end() :])


class Shell:
    """A bash that lasts, since a page's commands have variables and processes in the background.

    A context manager that ends it, and what it has left running.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._errors = folder / "stderr.txt"
        with self._errors.open("wb") as errors:
            self._bash = subprocess.Popen(
                ["bash"], cwd=folder, text=True, stderr=errors, process_group=0,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, "PATH": path, "COLUMNS": "100", **environment},
            )  # fmt: skip

    def run(self, command: str, timeout_s: float = 600.0) -> tuple[int, str]:
        """Its exit code, and what it prints on standard output."""
        assert self._bash.stdin
        assert self._bash.stdout
        self._bash.stdin.write(f"{command}\ncode=$?; echo; echo '{_END}' $code\n")
        self._bash.stdin.flush()
        watchdog = threading.Timer(timeout_s, self._bash.kill)
        watchdog.start()
        printed = []
        for line in self._bash.stdout:
            if line.startswith(_END):
                break
            printed.append(line)
        else:
            raise AssertionError(f"no end within {timeout_s:.0f} s: {command}\n{self.errors}")
        watchdog.cancel()
        return int(line.split()[-1]), "".join(printed)

    @property
    def errors(self) -> str:
        """The end of what was printed on standard error so far."""
        return self._errors.read_text(errors="replace")[-3000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()


def agrees(expected: str, printed: str) -> bool:
    """Whether what is shown is what was printed, numbers within what the module says."""
    shown, real = (" ".join(text.split()) for text in (expected, printed))
    words = [re.escape(part) for part in re.split(_NUMBER, shown)]
    numbers = _NUMBER.findall(shown)
    pattern = words[0] + "".join(f"({_NUMBER.pattern}){w}" for w in words[1:])
    for dots in (" ...", "..."):
        pattern = pattern.replace(re.escape(dots), ".*")
    found = re.fullmatch(pattern, real)
    return found is not None and all(map(_near, numbers, found.groups()))


def _near(expected: str, printed: str) -> bool:
    a, b = (float(text.replace(",", "")) for text in (expected, printed))
    return abs(a - b) <= 0.1 * abs(a) + (0.06 if "." in expected else 3.0)
