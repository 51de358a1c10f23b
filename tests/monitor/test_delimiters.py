"""Delimiters are read off the template that the model brings, wherever it lies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chat_models import (
    DEEPSEEK_R1,
    GEMMA_3,
    GPT_OSS,
    LLAMA_3,
    MISTRAL,
    QWEN_3,
    Family,
    tokenizer_of,
)
from tokenizers import Regex, Tokenizer, models
from tokenizers.pre_tokenizers import Split

from saeguard.monitor.chat_template import ChatTemplate, read_chat_templates
from saeguard.monitor.config import Delimited, Phases, SystemDelimited
from saeguard.monitor.delimiters import Delimiters
from saeguard.monitor.known_delimiters import written_spans
from saeguard.monitor.phases import PhaseTracker
from saeguard.monitor.template_delimiters import derive
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Phase

ROOT = Path(__file__).resolve().parents[2]
NONE = "not told apart"

CHATML = """
{%- for m in messages -%}
    {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' -}}
{%- endfor -%}
"""


def read_off(family: Family, text: str | None = None) -> dict[str, str]:
    """What a template shows, as text."""
    tokenizer = tokenizer_of(family)
    template = ChatTemplate(text or family.template, family.config)
    return derive(template, tokenizer).describe(tokenizer)


@pytest.mark.parametrize(
    ("family", "system", "reasoning", "tool_call"),
    [
        (LLAMA_3, "<|start_header_id|>system … <|eot_id|>", NONE, NONE),
        (
            QWEN_3,
            "<|im_start|>system … <|im_end|>",
            "<think> … </think>",
            "<tool_call> … </tool_call>",
        ),
        (GEMMA_3, NONE, NONE, NONE),
        (
            GPT_OSS,
            "<|start|>system … <|end|> or <|start|>developer … <|end|>",
            "<|channel|>analysis … <|end|>",
            "<|start|>assistant to … <|call|>",
        ),
        (
            DEEPSEEK_R1,
            "<｜begin▁of▁sentence｜> … <｜User｜>",
            NONE,
            "<｜tool▁calls▁begin｜> … <｜tool▁calls▁end｜>",
        ),
        (MISTRAL, "[SYSTEM_PROMPT] … [/SYSTEM_PROMPT]", NONE, "[TOOL_CALLS] … </s>"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_the_template_shows_is_read_off(
    family: Family, system: str, reasoning: str, tool_call: str
):
    shown = read_off(family)
    assert shown["system"].startswith(system)  # some templates take a developer for one, too
    assert (shown["reasoning"], shown["tool_call"]) == (reasoning, tool_call)


def test_a_tool_s_result_in_a_turn_like_the_system_s_is_no_system_text():
    """As with Kimi K2: what tools return is not to be trusted."""
    template = """
    {%- for m in messages -%}
        {%- set turns = {'user': '[INST]', 'assistant': '[/INST]'} -%}
        {{- turns.get(m.role, '[ARGS]' ~ m.role ~ '[THINK]') -}}
        {{- m.content or '' -}}
        {%- for call in m.tool_calls or [] -%}
            {{- '[TOOL_CALLS]' ~ call.function.name ~ call.function.arguments -}}
        {%- endfor -%}
        {{- '</s>' -}}
    {%- endfor -%}"""
    assert "[ARGS]system … </s>" in read_off(MISTRAL, template)["system"]


def test_a_turn_needs_no_closing_and_a_text_may_have_a_preamble():
    """As with GLM."""
    template = """[TOOL_RESULTS][ARGS]
    {%- for m in messages -%}
        {{- {'system': '[INST]', 'user': '[SYSTEM_PROMPT]'}.get(m.role, '[/INST]') ~ m.content -}}
    {%- endfor -%}"""
    assert read_off(MISTRAL, template)["system"] == "[INST] … [SYSTEM_PROMPT]"


def test_a_role_that_the_template_takes_for_another_is_no_system_text():
    template = """
    {%- for m in messages -%}
        {{- ('[INST]' if m.role == 'user' else '[/INST]') ~ m.content ~ '</s>' -}}
    {%- endfor -%}"""
    assert read_off(MISTRAL, template)["system"] == NONE


def test_an_answer_in_json_is_not_taken_for_a_call(tmp_path: Path):
    """Llama's template writes calls as bare JSON: nothing tells them from an answer in JSON."""
    ids, _ = LLAMA_3.ids((Phase.ANSWER, '{"name": "weather", "parameters": {}}'))
    texts = TokenTexts(LLAMA_3.save(tmp_path), captured=False)
    tracker = PhaseTracker([], texts.phases)
    assert {str(tracker.next_phase(int(i))) for i in ids} == {"answer"}


@pytest.mark.parametrize(
    "text",
    ["{% for", "{{ raise_exception('no') }}", "{{ messages.append(1) }}", "{{ 1 / 0 }}", "", "x"],
)
def test_a_template_that_cannot_be_used_shows_nothing(text: str):
    assert derive(ChatTemplate(text, {}), tokenizer_of(QWEN_3)) == Delimiters()


def test_blocks_that_mark_what_is_trained_on_are_rendered():
    text = "{% generation %}{{ messages[0].content }}{% endgeneration %}"
    assert ChatTemplate(text, {}).render([{"content": "hi"}]) == "hi"


def _named(directory: Path) -> None:
    named = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": "{{ 1 }}"}]
    QWEN_3.save(directory, chat_template=named)


def _jinja(directory: Path) -> None:
    QWEN_3.save(directory, chat_template="{{ 'the one in the file of its own wins' }}")
    (directory / "chat_template.jinja").write_text(CHATML)


def _json(directory: Path) -> None:
    QWEN_3.save(directory, chat_template=None)
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}))


@pytest.mark.parametrize("save", [_named, _jinja, _json])
def test_the_template_is_found_where_models_keep_it(tmp_path: Path, save):
    save(tmp_path)
    templates = read_chat_templates(tmp_path)
    assert templates[0].text == CHATML
    assert read_off(QWEN_3, templates[0].text)["system"].startswith("<|im_start|>system … ")


def test_special_tokens_may_be_written_at_length(tmp_path: Path):
    LLAMA_3.save(tmp_path, bos_token={"content": "<|begin_of_text|>", "special": True})
    (template,) = read_chat_templates(tmp_path)
    assert template.special_tokens["bos_token"] == "<|begin_of_text|>"


@pytest.mark.parametrize("content", ["[]", "{", '{"chat_template": 7}'])
def test_without_a_template_reasoning_and_calls_are_told_by_what_is_known(
    tmp_path: Path, content: str, capsys
):
    file = QWEN_3.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    TokenTexts(file, captured=False)
    logged = json.loads(capsys.readouterr().err)
    assert (logged["system"], logged["reasoning"]) == (NONE, "<think> … </think>")
    assert logged["tool_call"] == "<tool_call> … </tool_call>"


def test_what_is_configured_replaces_what_is_read_off(tmp_path: Path, capsys):
    phases = Phases(
        system=SystemDelimited(open="[INST]", close="[/INST]"), reasoning=Delimited(open="[ARGS]")
    )
    TokenTexts(MISTRAL.save(tmp_path), False, phases)
    logged = json.loads(capsys.readouterr().err)
    assert (logged["system"], logged["reasoning"]) == ("[INST] … [/INST]", "[ARGS] … ")
    assert logged["tool_call"].startswith("[TOOL_CALLS] … ")


def test_the_template_that_the_server_uses_instead_can_be_named(tmp_path: Path, capsys):
    file = tmp_path / "mine.jinja"
    file.write_text(CHATML.replace("<|im_start|>", "<think>"))
    TokenTexts(QWEN_3.save(tmp_path), False, Phases(chat_template=file))
    assert json.loads(capsys.readouterr().err)["system"].startswith("<think>system … <|im_end|>")


def test_a_model_without_a_tokenizer_json_is_said_to_have_two_phases(tmp_path: Path, capsys):
    TokenTexts(None, captured=False)
    assert "counts as answer" in capsys.readouterr().err


def _unreadable_template(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff")


def _special_token_without_content(directory: Path) -> None:
    QWEN_3.save(directory, bos_token={"content": None})


@pytest.mark.parametrize("spoil", [_unreadable_template, _special_token_without_content])
def test_a_file_that_cannot_be_read_costs_no_other_delimiters(tmp_path: Path, spoil, capsys):
    file = QWEN_3.save(tmp_path)
    spoil(tmp_path)
    TokenTexts(file, True, Phases(reasoning=Delimited(open="<|im_start|>")))
    *errors, logged = map(json.loads, capsys.readouterr().err.splitlines())
    assert logged["reasoning"] == "<|im_start|> … "
    assert logged["tool_call"] == "<tool_call> … </tool_call>"
    if spoil is _unreadable_template:
        assert "utf-8" in errors[0]["error"]
    else:
        assert logged["system"].startswith("<|im_start|>system")


def test_a_delimiter_is_found_however_white_space_beside_it_is_tokenised():
    vocabulary = ["(", " (", "ponder", ")", ")\n", "(/", "\n", " "]
    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(vocabulary)}))
    tokenizer.pre_tokenizer = Split(Regex(r" ?[(/)]+\n?|\w+|\s"), "isolated")
    openings = {span.opening for span in written_spans("(ponder)", None, tokenizer)}
    assert openings == {(0, 2, 3), (0, 2, 4), (1, 2, 3)}


def test_the_demo_model_s_system_text_prompt_and_answer_are_told_apart():
    file = ROOT / "examples" / "organism" / "artifacts" / "model" / "tokenizer.json"
    texts = [
        (Phase.SYSTEM, "<|system|>Be kind.<|end|>"),
        (Phase.PROMPT, "<|user|>Hello.<|end|><|assistant|>Yes.<|end|>"),
        (Phase.PROMPT, "<|user|>Why?<|end|><|assistant|>"),
        (Phase.ANSWER, "Because.<|end|>"),
    ]
    tokenizer = Tokenizer.from_file(str(file))
    ids = [tokenizer.encode(text).ids for _, text in texts]
    tracker = PhaseTracker(
        np.concatenate(ids[:3]).tolist(), TokenTexts(str(file), captured=False).phases
    )
    phases = tracker.phases(0, np.concatenate(ids))
    assert phases.tolist() == np.repeat([phase for phase, _ in texts], list(map(len, ids))).tolist()
