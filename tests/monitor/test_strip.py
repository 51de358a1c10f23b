"""The token strip."""

from __future__ import annotations

import io

import numpy as np
from records import ANSWER, PROMPT, REASONING, make_alert, make_request
from rich.cells import cell_len
from rich.console import Console

from saeguard.monitor.strip import SCALE, TokenStrip, visible

HOSTILE = ("\x1b[2J", "\u202e", "[red]x[/red]", "\x00\x9b", "line\n", "a b\t")


def render(record, position=2, terminal=False, context=100, width=100):
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        color_system="truecolor" if terminal else None,
        width=width,
        highlight=False,
    )
    console.print(TokenStrip(record, make_alert(position=position), "deceit", context))
    return console.file.getvalue()


def test_without_a_terminal_scores_are_written_behind_the_tokens():
    text = render(make_request())
    assert "You[?]·are" in text
    assert ">>·pass[7.2]<<" in text
    assert "\x1b" not in text


def test_on_a_terminal_the_score_is_the_background_and_the_firing_token_is_marked():
    text = render(make_request(), terminal=True)
    red, green, blue = (int(SCALE[-1][i : i + 2], 16) for i in (1, 3, 5))
    assert f"48;2;{red};{green};{blue}m·pass" in text
    assert "▼ 7.21" in text


def test_hostile_tokens_do_not_reach_the_terminal():
    count = len(HOSTILE)
    text = render(make_request(np.ones(count), HOSTILE, [ANSWER] * count), position=99)
    assert not {"\x1b", "\u202e", "\x00", "\x9b", "\t"} & set(text)
    for escaped in (r"\x1b[2J", r"\u202e", "[red]x[/red]", r"\x00\x9b", "line⏎", "a·b⇥"):
        assert escaped in text


def test_nothing_and_whitespace_are_visible():
    assert visible("") == "∅"
    assert visible(" \n\r\t") == "·⏎␍⇥"


def test_a_line_belongs_to_one_phase_and_starts_with_its_position():
    phases = [PROMPT] * 3 + [REASONING] * 2 + [ANSWER]
    text = render(make_request([0.0] * 6, list("abcdef"), phases), position=99)
    lines = [line.split() for line in text.splitlines()[1:]]
    assert lines == [
        ["0", "prompt", "▌", "abc"],
        ["3", "reasoning", "▌", "de"],
        ["5", "answer", "▌", "f"],
    ]


def test_an_unseen_token_is_shown_in_the_phase_before_it():
    text = render(make_request([1.0, np.nan], ["a", "b"], [ANSWER, 0]), position=99)
    assert "system" not in text


def test_without_text_the_scores_take_its_place_and_it_says_why():
    text = render(make_request(texts=None))
    assert "capture_text is off" in text
    assert ">>7.21<<" in text
    assert "-   0.00" in text


def test_long_requests_are_cut_around_the_firing_token():
    count = 1000
    record = make_request([1.0] * count, ["x"] * count, [ANSWER] * count)
    assert "tokens 495 to 505 of 1000" in render(record, position=500, context=5)


def test_positions_count_from_the_first_recorded_token():
    record = make_request(first_recorded=40)
    assert "40 prompt" in render(record, position=42)
    assert ">>·pass[7.2]<<" in render(record, position=42)


def test_no_line_is_wider_than_the_terminal():
    count = 200
    record = make_request([1.0] * count, ["日本語"] * count, [ANSWER] * count)
    lines = render(record, terminal=False, width=60).splitlines()
    assert max(map(cell_len, lines)) <= 60


def test_an_infinite_score_is_shown_and_does_not_set_the_scale():
    text = render(make_request([1.0, np.inf], ["a", "b"], [ANSWER] * 2), position=99)
    assert "peak 1.00" in text
    assert "b[inf]" in text


def test_a_request_without_recorded_tokens_says_so():
    assert "no token" in render(make_request([], [], []))


def test_only_negative_scores_are_shown_without_a_scale():
    assert "[-2.0]" not in render(make_request([-2.0, -1.0], ["a", "b"], [ANSWER] * 2))
