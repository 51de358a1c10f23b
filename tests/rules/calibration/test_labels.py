"""Labels are joined with recordings by id, and what is wrong with them is told with its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calibration_data import request

from saeguard.rules.calibration.labels import (
    Label,
    LabelError,
    match_labels,
    read_labels,
    write_labels,
)

SCORES = np.zeros(8)


def write(directory: Path, *lines: str) -> Path:
    path = directory / "labels.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_other_keys_are_left_to_those_who_made_the_request(tmp_path: Path):
    path = write(tmp_path, '{"id": "a", "label": true, "prompt": "Hi", "span": [2, 4]}', "")
    assert read_labels(path) == [Label("a", True, span=(2, 4))]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "a", "label": true}', '{"label": true}'], ":2: .*missing required field `id`"),
        (['{"id": "a", "label": 3}'], r":1: Expected `.*\$\.label`"),
        (["not json"], ":1: JSON is malformed"),
        (['{"id": "a", "label": true, "weight": 0}'], ":1: the weight 0.0 is no number"),
        (['{"id": "a", "label": true, "span": [4, 4]}'], r":1: the span \[4, 4\] is not"),
        (['{"id": "a", "label": true}'] * 2, ":2: the id 'a' stands twice"),
        ([], ": holds no labels"),
        (
            [
                '{"id": "a", "label": true, "group": "g", "split": "fit"}',
                '{"id": "b", "label": true, "group": "g", "split": "test"}',
            ],
            ":2: the group 'g' is in the split 'test' here and in 'fit' on line 1",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, lines: list[str], message: str):
    with pytest.raises(LabelError, match=message):
        read_labels(write(tmp_path, *lines))


def test_text_of_another_encoding_is_told_with_its_line(tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    path.write_bytes(b'{"id": "a", "label": true}\n{"id": "\xe9", "label": true}\n')
    with pytest.raises(LabelError, match=r"labels\.jsonl:2: 'utf-8' codec can't decode"):
        read_labels(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(LabelError, match=r"nowhere\.jsonl: cannot be read: No such file"):
        read_labels(tmp_path / "nowhere.jsonl")


def test_what_has_no_partner_is_counted():
    requests = [request("a", SCORES), request("b", SCORES), request("c", SCORES)]
    labels = [Label("b", True), Label("c", False), Label("d", True), Label("e", True)]
    matched = match_labels(requests, labels)
    assert [(e.label.id, e.answers) for e in matched.examples] == [("b", True), ("c", False)]
    assert (matched.num_unlabelled, matched.num_unrecorded) == (1, 2)


def test_words_mean_what_is_said_of_them():
    requests = [request("a", SCORES), request("b", SCORES)]
    labels = [Label("a", "deceptive"), Label("b", "honest")]
    matched = match_labels(requests, labels, positive=["deceptive"])
    assert [example.answers for example in matched.examples] == [True, False]
    with pytest.raises(LabelError, match=r"are words \(deceptive, honest\): say which"):
        match_labels(requests, labels)
    with pytest.raises(LabelError, match="no label is deceptiv; there are deceptive, honest"):
        match_labels(requests, labels, positive=["deceptiv"])


def test_a_label_can_speak_of_some_rules_only(tmp_path: Path):
    write_labels(tmp_path / "v.jsonl", [Label("a", {"lying": True})])
    labels = read_labels(tmp_path / "v.jsonl")
    (example,) = match_labels([request("a", SCORES)], labels).examples
    assert (example.answer("lying"), example.answer("leaking")) == (True, None)


def test_a_split_is_used_by_itself():
    requests = [request("a", SCORES), request("b", SCORES), request("c", SCORES)]
    labels = [Label("a", True, split="fit"), Label("b", False, split="test")]
    matched = match_labels(requests, labels, split="test")
    assert [example.label.id for example in matched.examples] == ["b"]
    assert (matched.num_in_other_splits, matched.num_unlabelled) == (1, 1)
    with pytest.raises(LabelError, match="no recorded request has a label of the split 'fit'"):
        match_labels(requests[1:], labels, split="fit")
    with pytest.raises(LabelError, match="no label is of the split 'tests'; there are fit, test"):
        match_labels(requests, labels, split="tests")


def test_a_request_that_was_recorded_twice_is_refused():
    with pytest.raises(LabelError, match="the id 'a' was recorded twice"):
        match_labels([request("a", SCORES), request("a", SCORES)], [Label("a", True)])
