"""Between which tokens of a model a phase lies: from the configuration, from its chat template,
and from what is known of common models, in that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from tokenizers import Tokenizer

from saeguard.monitor.chat_template import read_chat_templates
from saeguard.monitor.config import Delimited, Phases

Ids = tuple[int, ...]
"""Consecutive token ids."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of tokens in one phase, its delimiters included."""

    opening: Ids
    closings: tuple[Ids, ...] = ()
    """Whichever comes first. Without one it lasts until something else opens."""
    before: Ids = ()
    """What follows the stretch and is not part of it, where it has no closing of its own."""


@dataclass(frozen=True, slots=True)
class Delimiters:
    """All that is known of one model. Without any, tokens are `prompt` or `answer`."""

    system: tuple[Span, ...] = ()
    reasoning: tuple[Span, ...] = ()
    tool_call: tuple[Span, ...] = ()
    turns: tuple[Ids, ...] = ()
    """What ends a turn or opens the model's: no phase of an earlier turn reaches beyond it."""

    def __or__(self, other: Delimiters) -> Delimiters:
        """Those of both, each once."""
        return Delimiters(
            *(tuple(dict.fromkeys(getattr(self, f) + getattr(other, f))) for f in _FIELDS)
        )

    def describe(self, tokenizer: Tokenizer) -> dict[str, str]:
        """Each phase's delimiters as text, for the log."""
        return {
            name: " or ".join(_describe(span, tokenizer) for span in getattr(self, name))
            or "not told apart"
            for name in ("system", "reasoning", "tool_call")
        }


_FIELDS = [field.name for field in fields(Delimiters)]

# For templates that do not show reasoning or tool calls. A pair counts only where its opening
# begins with a token of its own: then it cannot come about by chance.
_KNOWN_REASONING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis", "<|end|>"),
    ("<|channel|>analysis", "<|call|>"),  # of a tool within the reasoning
)
_KNOWN_TOOL_CALLS = (
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call>", "<tool_call|>"),
    ("[TOOL_CALLS]", None),
    ("<|python_tag|>", None),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    # Harmony names the recipient of a call in the role, as templates do, or in the channel.
    ("<|start|>assistant to", "<|call|>"),
    ("<|channel|>commentary to", "<|call|>"),
)


def delimiters_of(tokenizer: Tokenizer, directory: Path, phases: Phases) -> Delimiters:
    """Those of the model whose tokenizer files lie in `directory`."""
    from saeguard.monitor.template_delimiters import derive

    found = Delimiters(
        reasoning=_known(_KNOWN_REASONING, tokenizer),
        tool_call=_known(_KNOWN_TOOL_CALLS, tokenizer),
    )
    for template in read_chat_templates(directory, phases.chat_template):
        found |= derive(template, tokenizer)
    return Delimiters(
        system=_written(phases.system, tokenizer) or found.system,
        reasoning=_written(phases.reasoning, tokenizer) or found.reasoning,
        tool_call=_written(phases.tool_call, tokenizer) or found.tool_call,
        turns=found.turns,
    )


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens of their own, which never merge with the text beside them; white space apart."""
    added = tokenizer.get_added_tokens_decoder().items()
    return frozenset(token_id for token_id, token in added if token.content.strip())


def _known(pairs: Iterable[tuple[str, str | None]], tokenizer: Tokenizer) -> tuple[Span, ...]:
    special = special_ids(tokenizer)
    spans = (span for pair in pairs for span in _spans(*pair, tokenizer))
    return tuple(span for span in spans if span.opening[0] in special)


def _written(pair: Delimited | None, tokenizer: Tokenizer) -> tuple[Span, ...]:
    return () if pair is None else tuple(_spans(pair.open, pair.close, tokenizer))


def _spans(opening: str, closing: str | None, tokenizer: Tokenizer) -> Iterator[Span]:
    closings = tuple(_encodings(closing, tokenizer)) if closing else ()
    for ids in _encodings(opening, tokenizer):
        yield Span(ids, closings)


def _encodings(text: str, tokenizer: Tokenizer) -> list[Ids]:
    """The ways in which a delimiter can be tokenised, the shortest that tell it.

    Text that is no token of its own merges with white space beside it: `>` and a line feed may be
    one token.
    """
    core = text.strip()
    variants = [core, core + "\n", core + "\n\n", "\n" + core, " " + core, text]
    ids = {tuple(tokenizer.encode(v, add_special_tokens=False).ids) for v in variants} - {()}
    kept: list[Ids] = []
    for candidate in sorted(ids, key=lambda ids: (len(ids), ids)):
        if not any(_contains(candidate, shorter) for shorter in kept):
            kept.append(candidate)
    return kept


def _contains(ids: Ids, part: Ids) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


def _describe(span: Span, tokenizer: Tokenizer) -> str:
    def text(ids: Ids) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=False)

    ends = " or ".join(map(text, span.closings)) or text(span.before)
    return f"{text(span.opening)} … {ends}"
