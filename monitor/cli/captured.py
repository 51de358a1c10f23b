"""What `saeguard capture` leaves beside recordings, for people: texts of answers and of tokens."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from saeguard.monitor.tokenizer_file import read_tokenizer
from saeguard.rules.recordings.offline import RecordedRequest

Decode = Callable[[Sequence[int]], str]


def file_of(request: RecordedRequest) -> Path:
    """The recording that it was read from."""
    text, _, number = request.source.rpartition(":")  # runs.jsonl:12
    if number.isdigit():
        return Path(text)
    return Path(request.source.rpartition(", request ")[0])


def read_answers(recordings: Collection[Path]) -> dict[str, str]:
    """Id -> what was answered."""
    found: dict[str, str] = {}
    for directory in {path.parent for path in recordings}:
        path = directory / "answers.jsonl"
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            with contextlib.suppress(ValueError, LookupError, TypeError):
                answer = json.loads(line)
                found[str(answer["id"])] = str(answer["response"])
    return found


def decoder(recordings: Collection[Path]) -> Decode | None:
    """Token ids -> their text; None where there is no tokenizer, or several that may differ."""
    files = {path.parent / "tokenizer.json" for path in recordings}
    found = [file for file in files if file.is_file()]
    if len(found) != 1 or len(files) != 1:
        return None
    try:
        tokenizer = read_tokenizer(str(found[0]))
    except Exception:  # the library has nothing narrower
        return None
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))
