"""What a capture leaves in its directory, shard by shard, so that it can go on where it ended.

recorded-00000.safetensors   scores, one shard for each part of the requests
answers.jsonl                what was answered, a line for each request
labels.jsonl                 the labels that the requests came with, with their spans in tokens
tokenizer.json               the model's, for whoever wants to read the tokens
engine.log                   what the engine said, where requests were ended by an error
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from saeguard.monitor.errors import ConfigError
from saeguard.rules.calibration.labels import Label, LabelError, read_labels, write_labels
from saeguard.rules.recordings.offline import RecordedRequest, RecordingError
from saeguard.rules.recordings.recording import recorded_columns, write_recordings

_PATTERN = "recorded-*.safetensors"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was answered to one request.

    Attributes:
        id: the request's.
        response: the text.
        finish_reason: vLLM's, such as `stop` or `length`; None of a response that was given.
        num_prompt_tokens: that the model read first.
        num_tokens: of the answer.
        span: positions of the request's `span_text`, the first and one past the last.
    """

    id: str
    response: str
    finish_reason: str | None
    num_prompt_tokens: int
    num_tokens: int
    span: tuple[int, int] | None = None


class Shards:
    """The directory of a capture."""

    def __init__(self, directory: Path) -> None:
        """
        Raises:
            ConfigError: the directory cannot be made.
        """
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{directory}: cannot be made: {error.strerror or error}") from error
        self._paths = sorted(directory.glob(_PATTERN))

    def done(self, columns: Sequence[str]) -> set[str]:
        """Ids of the requests that are recorded already; only their answers are kept.

        Args:
            columns: what is going to be recorded of the others.

        Raises:
            ConfigError: a shard is broken, or has other columns.
        """
        done: set[str] = set()
        for path in self._paths:
            try:
                recorded = recorded_columns(path)
            except RecordingError as error:
                remedy = "remove this file, and its requests run again"
                raise ConfigError(str(error), remedy) from error
            if any(set(found) != set(columns) for found in recorded.values()):
                raise ConfigError(
                    f"{path}: was recorded with other features or hook points",
                    "give another directory, or what it was begun with",
                )
            done |= recorded.keys()
        self._drop_answers(done)
        return done

    @property
    def num_bytes(self) -> int:
        """Of its shards."""
        return sum(path.stat().st_size for path in self._paths)

    def keep(self, name: str, content: bytes) -> None:
        """Beside the recordings.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            (self.directory / name).write_bytes(content)
        except OSError as error:
            raise ConfigError(f"{self.directory}: cannot be written: {error}") from error

    def add(self, requests: Sequence[RecordedRequest], answers: Sequence[Answer]) -> None:
        """Answers first: a request counts as done once its scores are there.

        Raises:
            ConfigError: the directory cannot be written.
        """
        path = self.directory / f"recorded-{len(self._paths):05}.safetensors"
        try:
            with (self.directory / "answers.jsonl").open("ab") as file:
                file.writelines(msgspec.json.encode(answer) + b"\n" for answer in answers)
            write_recordings(path, requests)
        except OSError as error:
            raise ConfigError(f"{self.directory}: cannot be written: {error}") from error
        except RecordingError as error:
            raise ConfigError(str(error)) from error
        self._paths.append(path)

    def write_labels(self, data: Path) -> int:
        """Leave out requests without a label.

        Returns:
            How many labels there are.

        Raises:
            ConfigError: a label is wrong, or the directory cannot be written.
        """
        spans = {answer.id: answer.span for answer in self._answers()}
        lines = [line for line in data.read_bytes().splitlines() if b'"label"' in line]
        if not lines:
            return 0
        known = self.directory / "labels.jsonl"
        try:
            known.write_bytes(b"\n".join(lines))
            labels = read_labels(known)
            write_labels(known, [_with_span(label, spans.get(label.id)) for label in labels])
        except LabelError as error:
            raise ConfigError(str(error).replace(str(known), str(data))) from error
        except OSError as error:
            raise ConfigError(f"{known}: cannot be written: {error.strerror or error}") from error
        return len(labels)

    def _drop_answers(self, done: set[str]) -> None:
        """Of a capture that was killed between answers and scores: those requests run again."""
        path = self.directory / "answers.jsonl"
        kept = [answer for answer in self._answers() if answer.id in done]
        temporary = path.with_name(path.name + ".partial")
        try:
            temporary.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in kept))
            temporary.replace(path)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _answers(self) -> list[Answer]:
        path = self.directory / "answers.jsonl"
        answers = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with contextlib.suppress(
                msgspec.DecodeError, UnicodeDecodeError
            ):  # cut off when a capture was killed
                answers.append(msgspec.json.decode(line, type=Answer))
        return answers


def _with_span(label: Label, span: tuple[int, int] | None) -> Label:
    return label if span is None else msgspec.structs.replace(label, span=span)
