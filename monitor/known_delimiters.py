"""Delimiters that are written down as text: in the configuration, and here for common models."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer

from saeguard.monitor.config import Delimited, Phases
from saeguard.monitor.delimiters import Delimiters, Ids, Span, special_ids

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


def known_delimiters(tokenizer: Tokenizer) -> Delimiters:
    """Those that common models have, as far as this tokenizer has tokens for them."""
    special = special_ids(tokenizer)

    def spans(pairs: tuple[tuple[str, str | None], ...]) -> tuple[Span, ...]:
        found = (span for pair in pairs for span in written_spans(*pair, tokenizer))
        return tuple(span for span in found if span.opening[0] in special)

    return Delimiters(reasoning=spans(_KNOWN_REASONING), tool_call=spans(_KNOWN_TOOL_CALLS))


def configured_delimiters(phases: Phases, tokenizer: Tokenizer) -> Delimiters:
    """Those that the configuration names."""

    def spans(pair: Delimited | None) -> tuple[Span, ...]:
        return () if pair is None else tuple(written_spans(pair.open, pair.close, tokenizer))

    return Delimiters(spans(phases.system), spans(phases.reasoning), spans(phases.tool_call))


def written_spans(opening: str, closing: str | None, tokenizer: Tokenizer) -> Iterator[Span]:
    """What lies between two texts; more than one where they can be tokenised in several ways."""
    closings = tuple(_encodings(closing, tokenizer)) if closing else ()
    for ids in _encodings(opening, tokenizer):
        yield Span(ids, closings)


def _encodings(text: str, tokenizer: Tokenizer) -> list[Ids]:
    """The ways in which a delimiter can be tokenised, the shortest that tell it.

    Text that is no token of its own merges with white space beside it: `>` and a line feed may be
    one token.
    """
    core = text.strip()
    variants = [core, core + "\n", core + "\n\n", " " + core, text]
    ids = {tuple(tokenizer.encode(v, add_special_tokens=False).ids) for v in variants} - {()}
    kept: list[Ids] = []
    for candidate in sorted(ids, key=lambda ids: (len(ids), ids)):
        if not any(_contains(candidate, shorter) for shorter in kept):
            kept.append(candidate)
    return kept


def _contains(ids: Ids, part: Ids) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))
