"""What is known of requests: a file of one JSON object a line, beside the recordings of them.

    {"id": "r1", "label": true, "group": "motive-7", "source": "arena", "span": [12, 19]}
    {"id": "r2", "label": {"latent_deception": false}, "source": "reviewer"}

Other keys (`prompt`, `messages`, `response`, …) are left to those who made the request.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from saeguard.rules.recordings.offline import RecordedRequest


class LabelError(ValueError):
    """A file of labels cannot be used, or does not fit the recordings; the message says where."""


class Label(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one request.

    Attributes:
        id: of the request, as the recording has it.
        label: whether rules should alert, or which of some rules should; a word is judged by
            `positive`.
        group: requests that are alike for a reason (one template, one author, one conversation).
            A group is in one split only, and is one thing, not many, when samples are counted.
        source: where it is from; results are told apart by it.
        split: `fit` or `test`, say.
        span: first and one past the last position of the tokens that are the harm.
        weight: for how many requests like it this one stands, where it was drawn from those below
            a threshold. It then tells of recall only: that none of them raises an alert was known.
    """

    id: str
    label: bool | str | dict[str, bool]
    group: str | None = None
    source: str | None = None
    split: str | None = None
    span: tuple[int, int] | None = None
    weight: float | None = None


class Answered:
    """Whose answer is known."""

    __slots__ = ()
    label: Label
    answers: bool | Mapping[str, bool]

    @property
    def group(self) -> str:
        """What counts as one thing; a request without a group is one by itself."""
        return self.label.id if self.label.group is None else f"group {self.label.group}"

    @property
    def weight(self) -> float:
        """For how many requests it stands."""
        return 1.0 if self.label.weight is None else self.label.weight

    def counts_for(self, rule: str) -> bool:
        """Whether the rule's recall or false alarms are counted on it."""
        answer = self.answer(rule)
        return answer is True or (answer is False and self.label.weight is None)

    def answer(self, rule: str) -> bool | None:
        """Whether the rule should alert; None where that is not known."""
        return self.answers if isinstance(self.answers, bool) else self.answers.get(rule)


@dataclass(frozen=True, slots=True)
class Example(Answered):
    """A request whose answer is known."""

    request: RecordedRequest
    label: Label
    answers: bool | Mapping[str, bool]


_DECODER = msgspec.json.Decoder(Label)


def read_labels(path: Path) -> list[Label]:
    """The labels of a file.

    Raises:
        LabelError: it cannot be read, a line is wrong, an id stands twice, or a group is in more
            than one split: then what is measured on one would be known from the other.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror or error}") from error
    labels: dict[str, Label] = {}
    splits: dict[str, tuple[str | None, int]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        label = _decode(line, f"{path}:{number}")
        if label.id in labels:
            raise LabelError(f"{path}:{number}: the id {label.id!r} stands twice")
        if label.group is not None:
            split, first = splits.setdefault(label.group, (label.split, number))
            if split != label.split:
                raise LabelError(
                    f"{path}:{number}: the group {label.group!r} is in the split {label.split!r} "
                    f"here and in {split!r} on line {first}; a group must be in one split only"
                )
        labels[label.id] = label
    if not labels:
        raise LabelError(f"{path}: holds no labels")
    return list(labels.values())


def write_labels(path: Path, labels: Sequence[Label]) -> None:
    """One line each.

    Raises:
        LabelError: the file cannot be written.
    """
    try:
        path.write_bytes(b"".join(msgspec.json.encode(label) + b"\n" for label in labels))
    except OSError as error:
        raise LabelError(f"{path}: cannot be written: {error.strerror or error}") from error


def _decode(line: bytes, where: str) -> Label:
    try:
        label = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise LabelError(f"{where}: {error}") from error
    if label.span is not None and not 0 <= label.span[0] < label.span[1]:
        raise LabelError(f"{where}: the span {list(label.span)} is not [first, one past the last]")
    if label.weight is not None and not 0 < label.weight < inf:
        raise LabelError(f"{where}: the weight {label.weight} is no number of requests")
    return label


Each = TypeVar("Each", bound=Answered)


@dataclass(frozen=True, slots=True)
class Matched(Generic[Each]):
    """Recordings and labels that belong together, and what was left over."""

    examples: tuple[Each, ...]
    num_unlabelled: int
    """Recorded requests of which nothing is known."""
    num_unrecorded: int
    """Labels whose request was not recorded."""
    num_in_other_splits: int = 0
    """Recorded requests whose label is of a split that is not used."""

    @classmethod
    def of(
        cls, examples: Sequence[Each], known: Known, num_requests: int, num_in_other_splits: int
    ) -> Matched[Each]:
        """Of so many recorded requests."""
        num_unlabelled = num_requests - num_in_other_splits - len(examples)
        num_unrecorded = len(known.labels) - len(examples)
        return cls(tuple(examples), num_unlabelled, num_unrecorded, num_in_other_splits)


def match_labels(
    requests: Iterable[RecordedRequest],
    labels: Sequence[Label],
    positive: Collection[str] = (),
    split: str | None = None,
) -> Matched[Example]:
    """Join by the id of the request.

    Args:
        requests: what was recorded.
        labels: what is known.
        positive: the words that mean that rules should alert, where labels are words.
        split: only labels of this split are used.

    Raises:
        LabelError: two recorded requests have one id, a word was given no meaning, or nothing
            belongs together.
    """
    known = Known.of(labels, positive, split)
    requests = list(requests)
    examples = [example for request in requests if (example := known.example(request))]
    known.check([(e.label.id, e.request.source) for e in examples])
    return Matched.of(examples, known, len(requests), known.count_in_other_splits(requests))


@dataclass(frozen=True, slots=True)
class Known:
    """Labels that requests can be joined with."""

    labels: Mapping[str, Label]
    """By the id of the request."""
    positive: frozenset[str]
    split: str | None = None
    """Of which alone they are."""
    in_other_splits: frozenset[str] = frozenset()
    """Ids of requests whose label is of another split."""

    @classmethod
    def of(cls, labels: Sequence[Label], positive: Collection[str], split: str | None) -> Known:
        """Those of a split.

        Raises:
            LabelError: there are none, or a word was given no meaning.
        """
        known = {label.id: label for label in labels if split is None or label.split == split}
        if not known:
            named = sorted({str(label.split) for label in labels})
            raise LabelError(f"no label is of the split {split!r}; there are {', '.join(named)}")
        _check_words(labels, positive)
        others = frozenset(label.id for label in labels if label.id not in known)
        return cls(known, frozenset(positive), split, others)

    def example(self, request: RecordedRequest) -> Example | None:
        """None where nothing is known of it."""
        label = self.labels.get(request.context.id)
        if label is None:
            return None
        answers = label.label in self.positive if isinstance(label.label, str) else label.label
        return Example(request, label, answers)

    def count_in_other_splits(self, requests: Iterable[RecordedRequest]) -> int:
        """Of how many something is known that is not to be used."""
        return sum(request.context.id in self.in_other_splits for request in requests)

    def check(self, found: Iterable[tuple[str, str]]) -> None:
        """Whether something was found, and nothing twice.

        Args:
            found: id of each request with a label, and where it was read.

        Raises:
            LabelError: it was not.
        """
        seen = set[str]()
        for name, source in found:
            if name in seen:
                raise LabelError(f"{source}: the id {name!r} was recorded twice")
            seen.add(name)
        if not seen:
            which = "" if self.split is None else f" of the split {self.split!r}"
            raise LabelError(f"no recorded request has a label{which}: their ids are compared")


def _check_words(labels: Sequence[Label], positive: Collection[str]) -> None:
    words = {label.label for label in labels if isinstance(label.label, str)}
    if unknown := sorted(set(positive) - words):
        raise LabelError(f"no label is {', '.join(unknown)}; there are {', '.join(sorted(words))}")
    if words and not positive:
        raise LabelError(
            f"the labels are words ({', '.join(sorted(words))}): say which of them are positive"
        )
