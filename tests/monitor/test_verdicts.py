"""What reviewers have said of alerts, and what of it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeguard.monitor.store import Store
from saeguard.monitor.verdicts import (
    Agreement,
    Said,
    add_missing,
    add_verdict,
    agreement,
    history,
    newest,
    opinions,
    standing,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "alerts.sqlite"
    Store(path).close()
    return path


def say(path: Path, *words: tuple[str, str, str]) -> None:
    for alert_id, reviewer, verdict in words:
        add_verdict(path, alert_id, verdict, "", reviewer)


def standing_words(path: Path, alert_id: str) -> list[tuple[str, str]]:
    said = standing(path, [alert_id]).get(alert_id, [])
    return [(each.reviewer, each.verdict) for each in said]


def test_of_each_reviewer_the_last_word_stands_until_it_is_taken_back(path: Path):
    say(path, ("x", "ada", "unsure"), ("x", "bob", "benign"), ("x", "ada", "true_positive"))
    assert standing_words(path, "x") == [("ada", "true_positive"), ("bob", "benign")]
    assert newest(path, ["x", "y"])["x"].reviewer == "ada"
    say(path, ("x", "ada", "none"))
    assert standing_words(path, "x") == [("bob", "benign")]
    assert newest(path, ["x"])["x"].verdict == "benign", "bob has taken nothing back"
    say(path, ("x", "bob", "none"))
    assert newest(path, ["x"]) == {}
    assert len(history(path, "x")) == 5


def test_who_gives_no_name_is_a_reviewer_too(path: Path):
    say(path, ("x", "", "benign"), ("x", "ada", "unsure"), ("x", "", "none"))
    assert standing_words(path, "x") == [("ada", "unsure")]


def test_agreement_is_counted_where_several_have_judged(path: Path):
    assert agreement(path) == Agreement(0, 0)
    say(
        path, ("alone", "ada", "benign"), ("seen", "ada", "benign"), ("seen", "bob", "acknowledged")
    )
    assert agreement(path) == Agreement(0, 0), "to be at it is no judgement"
    say(path, ("same", "ada", "benign"), ("same", "bob", "benign"))
    say(path, ("other", "ada", "benign"), ("other", "bob", "false_positive"))
    assert agreement(path) == Agreement(2, 1)
    say(path, ("other", "ada", "false_positive"))
    assert agreement(path) == Agreement(2, 2)


def test_whether_an_alert_was_right_is_asked_of_those_who_are_sure(path: Path):
    say(path, ("x", "ada", "true_positive"), ("x", "bob", "unsure"), ("x", "eve", "acknowledged"))
    assert opinions(standing(path, ["x"])["x"]) == {True}
    say(path, ("x", "bob", "benign"))
    assert opinions(standing(path, ["x"])["x"]) == {True, False}
    say(path, ("x", "ada", "false_positive"))
    assert opinions(standing(path, ["x"])["x"]) == {False}


def test_what_was_said_elsewhere_is_added_once_and_keeps_its_time(path: Path):
    said = [Said("x", "benign", "a joke", "ada", 1), Said("x", "unsure", "", "ada", 2)]
    assert add_missing(path, said) == 2
    assert add_missing(path, [*said, Said("x", "unsure", "", "ada", 3)]) == 1
    assert history(path, "x") == [Said("x", "unsure", "", "ada", 3), *reversed(said)]
