"""A model's template is a program that came with it: it may take forever, or all the memory."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from chat_models import QWEN_3, tokenizer_of

from saeguard.monitor import deriving, tokens
from saeguard.monitor.chat_template import ChatTemplate
from saeguard.monitor.delimiters import Delimiters, Span
from saeguard.monitor.deriving import derive_apart
from saeguard.monitor.phases import PhaseMatcher
from saeguard.monitor.template_delimiters import derive
from saeguard.monitor.tokens import TokenTexts

ENDLESS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
}
LARGE = {
    "text": "{{ ('a' * 2000000000) | length }}",
    "number": "{{ '%2000000000d' % 1 | length }}",
}


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> str:
    return QWEN_3.save(tmp_path)


def test_apart_is_found_what_is_found_here(tokenizer_file: str):
    template = ChatTemplate(QWEN_3.template, QWEN_3.config)
    assert derive_apart(tokenizer_file, [template]) == derive(template, tokenizer_of(QWEN_3))


@pytest.mark.parametrize("text", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_does_not_end_is_ended(tokenizer_file: str, text: str, monkeypatch):
    monkeypatch.setattr(deriving, "TIME_LIMIT_S", 1)
    with pytest.raises(RuntimeError, match="not done after 1 s"):
        derive_apart(tokenizer_file, [ChatTemplate(text, {})])


@pytest.mark.parametrize("text", LARGE.values(), ids=LARGE)
def test_a_template_that_asks_for_gigabytes_gets_none(tokenizer_file: str, text: str):
    rest = QWEN_3.template
    with_both = derive_apart(
        tokenizer_file, [ChatTemplate(text + rest, {}), ChatTemplate(rest, {})]
    )
    assert derive_apart(tokenizer_file, [ChatTemplate(text + rest, {})]) == Delimiters()
    assert with_both == derive_apart(tokenizer_file, [ChatTemplate(rest, {})])


def test_an_endless_template_leaves_the_known_delimiters_and_says_why(
    tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(tokens, "WAIT_S", 5)
    monkeypatch.setattr(deriving, "TIME_LIMIT_S", 1)
    texts = TokenTexts(QWEN_3.save(tmp_path, chat_template=ENDLESS["power"]), captured=False)
    error, phases = map(json.loads, capsys.readouterr().err.splitlines())
    assert "not done after 1 s" in error["error"]
    assert phases["reasoning"] == "<think> … </think>"
    assert texts.phases.openings


def test_the_first_request_does_not_wait_for_a_slow_template_and_later_ones_have_it(
    tokenizer_file: str, monkeypatch
):
    def system(matcher: PhaseMatcher) -> bool:
        ids, _ = QWEN_3.ids(*QWEN_3.prompt)
        return len(set(matcher.prompt_phases(ids).tolist())) > 1

    monkeypatch.setattr(tokens, "WAIT_S", 0)
    texts = TokenTexts(tokenizer_file, captured=False)
    assert texts.phases.openings  # the known ones
    assert not system(texts.phases)
    until_s = time.monotonic() + 30
    while not system(texts.phases) and time.monotonic() < until_s:
        time.sleep(0.05)
    assert system(texts.phases)


def test_a_delimiter_of_a_thousand_tokens_is_none():
    short, long = Span((1, 2), ((3,),)), Span((1, 2), (tuple(range(1000)),))
    found = Delimiters((long, short), (long,), (short,) * 1000, (tuple(range(1000)), (5,)))
    kept = found.within_reason()
    assert (kept.system, kept.reasoning, kept.turns) == ((short,), (), ((5,),))
    assert len(kept.tool_call) < 100
