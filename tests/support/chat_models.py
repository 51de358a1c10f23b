"""Conversations of six model families, token by token, and small real tokenizers for them.

A conversation is a list of (phase, text). The prompt's texts join to what the family's template
renders; the generated ones are what such a model writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from saeguard.rules import Phase

SYSTEM, PROMPT, REASONING, ANSWER, TOOL_CALL = Phase
TEMPLATES = Path(__file__).resolve().parents[1] / "monitor" / "chat_templates"

MESSAGES = [
    {"role": "system", "content": "You are kind."},
    {"role": "user", "content": "What is up?"},
    {"role": "assistant", "content": "The sky."},
    {"role": "user", "content": "And the weather?"},
]
WORDS = """system user assistant model developer final analysis commentary functions to json weather
You are kind. What is up? The sky. And the weather? Let me look. I should ask. name arguments"""

Text = tuple[Phase, str]


@dataclass(frozen=True)
class Family:
    """A kind of model."""

    name: str
    special: tuple[str, ...]
    prompt: tuple[Text, ...]
    generated: tuple[Text, ...]
    config: dict[str, str] = field(default_factory=dict)
    """Of tokenizer_config.json."""

    @property
    def template(self) -> str:
        return (TEMPLATES / f"{self.name}.jinja").read_text()

    def ids(self, *texts: Text) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the texts as one, and the phase of each token."""
        whole = "".join(text for _, text in texts)
        ends = np.cumsum([len(text) for _, text in texts])
        encoding = tokenizer_of(self).encode(whole, add_special_tokens=False)
        starts, stops = np.array(encoding.offsets).T
        owner = np.searchsorted(ends, starts, side="right")
        assert (stops <= ends[owner]).all(), "a token reaches across two phases"
        phases = np.array([phase for phase, _ in texts], np.uint8)
        return np.array(encoding.ids, np.int32), phases[owner]

    def save(self, directory: Path, **config: object) -> str:
        """Write the tokenizer's files, and return the path of tokenizer.json."""
        directory.mkdir(exist_ok=True)
        tokenizer_of(self).save(str(directory / "tokenizer.json"))
        written = self.config | {"chat_template": self.template} | config
        (directory / "tokenizer_config.json").write_text(json.dumps(written))
        return str(directory / "tokenizer.json")


@cache
def _tokenizer(special: tuple[str, ...]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([WORDS, " " + WORDS.replace("\n", " "), *WORDS.split()], trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in special])
    return tokenizer


def tokenizer_of(family: Family) -> Tokenizer:
    """Byte-level BPE with the family's own tokens."""
    return _tokenizer(family.special)


LLAMA_3 = Family(
    "llama3",
    ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
     "<|python_tag|>"),
    (
        (PROMPT, "<|begin_of_text|>"),
        (SYSTEM, "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
                 "2023\nToday Date: DATE\n\nYou are kind.<|eot_id|>"),
        (PROMPT, "<|start_header_id|>user<|end_header_id|>\n\nWhat is up?<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\nThe sky.<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nAnd the weather?<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ),
    (
        (ANSWER, "Let me look."),
        (TOOL_CALL, '<|python_tag|>weather.call(query="up")<|eom_id|>'),
    ),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
)  # fmt: skip

QWEN_3 = Family(
    "qwen3",
    ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"),
    (
        (SYSTEM, "<|im_start|>system\nYou are kind.<|im_end|>"),
        (PROMPT, "\n<|im_start|>user\nWhat is up?<|im_end|>\n<|im_start|>assistant\nThe sky."
                 "<|im_end|>\n<|im_start|>user\nAnd the weather?<|im_end|>\n"
                 "<|im_start|>assistant\n"),
    ),
    (
        (REASONING, "<think>\nI should ask.\n</think>"),
        (ANSWER, "\n\nLet me look.\n"),
        (TOOL_CALL, '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>'),
        (ANSWER, "\n"),
        (TOOL_CALL, '<tool_call>\n{"name": "sky", "arguments": {}}\n</tool_call>'),
        (ANSWER, "<|im_end|>"),
    ),
)  # fmt: skip

GEMMA_3 = Family(
    "gemma3",
    ("<bos>", "<start_of_turn>", "<end_of_turn>", "\n\n"),
    (
        (PROMPT, "<bos><start_of_turn>user\nYou are kind.\n\nWhat is up?<end_of_turn>\n"
                 "<start_of_turn>model\nThe sky.<end_of_turn>\n<start_of_turn>user\n"
                 "And the weather?<end_of_turn>\n<start_of_turn>model\n"),
    ),
    ((ANSWER, "Let me look.<end_of_turn>"),),
    {"bos_token": "<bos>"},
)  # fmt: skip

GPT_OSS = Family(
    "gpt_oss",
    ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>",
     "<|call|>"),
    (
        (SYSTEM, "<|start|>system<|message|>You are a model.\nCurrent date: DATE\n\n# Valid "
                 "channels: analysis, commentary, final.<|end|><|start|>developer<|message|># "
                 "Instructions\n\nYou are kind.<|end|>"),
        (PROMPT, "<|start|>user<|message|>What is up?<|end|><|start|>assistant<|channel|>final"
                 "<|message|>The sky.<|end|><|start|>user<|message|>And the weather?<|end|>"
                 "<|start|>assistant"),
    ),
    (
        (ANSWER, "<|channel|>"),
        (REASONING, "analysis<|message|>I should ask.<|end|>"),
        (ANSWER, "<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
                 "<|start|>assistant<|channel|>commentary"),
        (TOOL_CALL, " to=functions.weather <|constrain|>json<|message|>{}<|call|>"),
        (ANSWER, "<|start|>assistant"),
        (TOOL_CALL, " to=functions.sky<|channel|>commentary json<|message|>{}<|call|>"),
        (ANSWER, "<|start|>assistant<|channel|>final<|message|>The sky.<|return|>"),
    ),
)  # fmt: skip

DEEPSEEK_R1 = Family(
    "deepseek_r1",
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>",
     "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>",
     "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"),
    (
        (SYSTEM, "<｜begin▁of▁sentence｜>You are kind."),
        (PROMPT, "<｜User｜>What is up?<｜Assistant｜>The sky.<｜end▁of▁sentence｜><｜User｜>"
                 "And the weather?<｜Assistant｜><think>\n"),
    ),
    (
        (REASONING, "I should ask.\n</think>"),
        (ANSWER, "\n\nLet me look."),
        (TOOL_CALL, "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n"
                    "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        (ANSWER, "<｜end▁of▁sentence｜>"),
    ),
    {"bos_token": "<｜begin▁of▁sentence｜>"},
)  # fmt: skip

MISTRAL = Family(
    "mistral",
    ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CALLS]",
     "[ARGS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[THINK]", "[/THINK]"),
    (
        (PROMPT, "<s>"),
        (SYSTEM, "[SYSTEM_PROMPT]You are kind.[/SYSTEM_PROMPT]"),
        (PROMPT, "[INST]What is up?[/INST]The sky.</s>[INST]And the weather?[/INST]"),
    ),
    (
        (REASONING, "[THINK]I should ask.[/THINK]"),
        (ANSWER, "Let me look."),
        (TOOL_CALL, "[TOOL_CALLS]weather[ARGS]{}</s>"),
    ),
    {"bos_token": "<s>", "eos_token": "</s>"},
)  # fmt: skip

FAMILIES = (LLAMA_3, QWEN_3, GEMMA_3, GPT_OSS, DEEPSEEK_R1, MISTRAL)
