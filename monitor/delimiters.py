"""Between which tokens of a model a phase lies."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import islice

from tokenizers import Tokenizer

Ids = tuple[int, ...]
"""Consecutive token ids."""

_MAX_TOKENS = 128
_MAX_SPANS = 64


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

    def replaced_by(self, other: Delimiters) -> Delimiters:
        """The other's for each phase that it has any for."""
        return Delimiters(*(getattr(other, f) or getattr(self, f) for f in _FIELDS))

    def within_reason(self) -> Delimiters:
        """Without what is too long for a delimiter, and not more than there can be."""

        def short(spans: tuple[Span, ...]) -> tuple[Span, ...]:
            parts = [(span, (span.opening, span.before, *span.closings)) for span in spans]
            kept = (span for span, every in parts if max(map(len, every)) <= _MAX_TOKENS)
            return tuple(islice(kept, _MAX_SPANS))

        turns = (ids for ids in self.turns if len(ids) <= _MAX_TOKENS)
        return Delimiters(
            short(self.system),
            short(self.reasoning),
            short(self.tool_call),
            tuple(islice(turns, _MAX_SPANS)),
        )

    def describe(self, tokenizer: Tokenizer) -> dict[str, str]:
        """Each phase's delimiters as text, for the log."""
        return {
            name: " or ".join(_describe(span, tokenizer) for span in getattr(self, name))
            or "not told apart"
            for name in ("system", "reasoning", "tool_call")
        }


_FIELDS = [field.name for field in fields(Delimiters)]


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Tokens of their own, which never merge with the text beside them; white space apart."""
    added = tokenizer.get_added_tokens_decoder().items()
    return frozenset(token_id for token_id, token in added if token.content.strip())


def _describe(span: Span, tokenizer: Tokenizer) -> str:
    def text(ids: Ids) -> str:
        return tokenizer.decode(list(ids), skip_special_tokens=False)

    ends = " or ".join(map(text, span.closings)) or text(span.before)
    return f"{text(span.opening)} … {ends}"
