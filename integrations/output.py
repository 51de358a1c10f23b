"""Where a library prints that we have no say in."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def printing_to(target: int) -> Iterator[None]:
    """Lead standard output and error of this process and its children to a file descriptor."""
    sys.stdout.flush()
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(target, number)
    try:
        yield
    finally:
        sys.stdout.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
