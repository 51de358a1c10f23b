"""Reads delimiters off a model's templates in a process of its own.

A template is a program that came with the model: it may never end, or take all the memory there
is. It must not take the monitor with it.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from pathlib import Path

from pydantic import TypeAdapter

from saeguard.monitor.chat_template import ChatTemplate
from saeguard.monitor.delimiters import Delimiters
from saeguard.monitor.template_delimiters import derive
from saeguard.monitor.tokenizer_file import read_tokenizer

TIME_LIMIT_S = 10
_MEMORY_LIMIT = 1 << 30
"""Bytes above what the tokenizer takes."""
_DELIMITERS = TypeAdapter(Delimiters)


@dataclass(frozen=True)
class _Task:
    tokenizer_file: str
    templates: list[ChatTemplate]


_TASK = TypeAdapter(_Task)


def derive_apart(tokenizer_file: str, templates: list[ChatTemplate]) -> Delimiters:
    """What `derive` finds in the templates; found once in the life of this process.

    Raises RuntimeError, which says why, where it takes too much time or memory or fails otherwise.
    """
    return _derived(_TASK.dump_json(_Task(tokenizer_file, templates)))


@lru_cache(maxsize=16)
def _derived(task: bytes) -> Delimiters:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__],
            input=task,
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the chat template was not done after {TIME_LIMIT_S} s") from None
    if done.returncode:
        last_line = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise RuntimeError(f"rendering the chat template failed ({done.returncode}): {last_line}")
    return _DELIMITERS.validate_json(done.stdout)


def _main() -> None:
    # It ends by itself where the monitor ended before it.
    _limit(resource.RLIMIT_CPU, TIME_LIMIT_S)
    _limit(resource.RLIMIT_CORE, 0)
    task = _TASK.validate_json(sys.stdin.buffer.read())
    tokenizer = read_tokenizer(task.tokenizer_file)
    _limit(resource.RLIMIT_AS, _memory() + _MEMORY_LIMIT)
    found = (derive(template, tokenizer) for template in task.templates)
    sys.stdout.buffer.write(_DELIMITERS.dump_json(reduce(or_, found, Delimiters())))


def _memory() -> int:
    """Bytes of address space that this process takes."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    return num_pages * resource.getpagesize()


def _limit(kind: int, limit: int) -> None:
    """A limit that is tighter already stays as it is: it cannot be raised."""
    _, hard = resource.getrlimit(kind)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(kind, (limit, limit))


if __name__ == "__main__":
    _main()
