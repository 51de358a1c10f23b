"""Reads a model's delimiters off its chat template.

Conversations of marker words are rendered and tokenised. What stands between two markers is a
delimiter, or the end of one turn and the opening of the next. Of an opening, the shortest part
is kept that tells it from the other openings: what comes later may be a date or a default text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from saeguard.monitor.chat_template import ChatTemplate
from saeguard.monitor.delimiters import Delimiters, Ids, Span, special_ids

_SYSTEM, _USER, _LATER = "Markersystem", "Markeruser", "Markerlater"
_CALL_ID = "abcdefghi"
_ANSWER, _THOUGHT, _TOOL, _VALUE = "Markeranswer", "Markerthought", "Markertool", "Markervalue"

Message = dict[str, Any]


class _Token(NamedTuple):
    id: int
    start: int
    end: int
    is_special: bool
    is_space: bool


Tokens = list[_Token]


def derive(template: ChatTemplate, tokenizer: Tokenizer) -> Delimiters:
    """What a template shows; nothing where it cannot even render a question and its answer."""
    probe = _Probe(template, tokenizer)
    question = probe.parts([_user()], _USER)
    answered = probe.parts([_user(), _assistant()], _USER, _ANSWER)
    followed = probe.parts([_user(), _assistant(), _user(_LATER)], _USER, _ANSWER, _LATER)
    if question is None or answered is None or followed is None:
        return Delimiters()
    return _Turns(probe, question, answered, followed).delimiters().within_reason()


class _Probe:
    """Renders and tokenises."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        bos = template.special_tokens.get("bos_token")
        self.bos_id = None if bos is None else tokenizer.token_to_id(bos)

    def parts(self, messages: list[Message], *markers: str) -> list[Tokens] | None:
        """The tokens before the first marker, between each and the next, and after the last.

        None unless the template shows all the markers, in this order.
        """
        text = self._template.render(messages)
        if text is None:
            return None
        edges = [0]
        for marker in markers:
            start = text.find(marker, edges[-1])
            if start < 0:
                return None
            edges += [start, start + len(marker)]
        edges.append(len(text))
        tokens = list(self._tokens(text))
        return [
            [token for token in tokens if start <= token.start and token.end <= end]
            for start, end in zip(edges[::2], edges[1::2], strict=True)
        ]

    def _tokens(self, text: str) -> Iterator[_Token]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            is_special = token_id in self._special
            is_space = not is_special and not text[start:end].strip()
            yield _Token(token_id, start, end, is_special, is_space)


class _Turns:
    """How a template writes turns: `question` is [user], `answered` [user, assistant], `followed`
    [user, assistant, user].
    """

    def __init__(
        self, probe: _Probe, question: list[Tokens], answered: list[Tokens], followed: list[Tokens]
    ) -> None:
        self._probe = probe
        self._closes = {
            tokens[-1].id for tokens in map(_special, (question[-1], answered[-1])) if tokens
        }
        self._start = question[0]
        self._user = self._opening(followed[2])
        self._answer = self._opening(followed[1])
        self._last_answer = self._opening(answered[1])

    def delimiters(self) -> Delimiters:
        system = [span for role in ("system", "developer") for span in self._system(role)]
        turns: set[Ids] = {(token_id,) for token_id in self._closes}
        if opening := _told_apart(self._answer, [self._user]):
            turns.add(opening)
        return Delimiters(
            tuple(dict.fromkeys(system)), self._reasoning(), self._tool_call(), tuple(sorted(turns))
        )

    def _opening(self, tokens: Tokens) -> Tokens:
        """What follows the end of the turn before."""
        ends = [i for i, token in enumerate(tokens) if token.id in self._closes]
        return _stripped(tokens[ends[-1] + 1 :] if ends else tokens)

    def _system(self, role: str) -> Iterator[Span]:
        """Nothing where the system text stands within the user's turn, or is left out."""
        parts = self._probe.parts([{"role": role, "content": _SYSTEM}, _user()], _SYSTEM, _USER)
        if parts is None or not self._user or not self._user[0].is_special:
            return
        before, between, _ = parts
        user_at = _last_index(_ids(between), _ids(self._user))
        if user_at < 0:
            return
        closing = _ids(_special(between[:user_at])[-1:])
        closes = self._closes | set(closing)
        closings, follows = ((closing,), ()) if closing else ((), _ids(self._user))
        others = [self._user, self._answer, self._tool_result()]
        turns = _split(before[self._preamble_len(before, closes) :], closes)
        openings = [opening for turn in turns if (opening := _told_apart(turn, others))]
        if not turns and before and before[-1].is_special:  # nothing but the start of the text
            openings = [_ids(before[-1:])]
        for opening in openings:
            yield Span(opening, closings, follows)

    def _preamble_len(self, before: Tokens, closes: Collection[int]) -> int:
        """How many tokens every text begins with, whatever its first turn is."""
        user_at = _last_index(_ids(self._start), _ids(self._user))
        preamble = self._start[: max(0, user_at)]
        if len(_split(self._start, closes)) > 1:  # a default system text is part of it
            preamble = [token for token in preamble[:1] if token.id == self._probe.bos_id]
        return len(preamble) if before[: len(preamble)] == preamble else 0

    def _reasoning(self) -> tuple[Span, ...]:
        fields = ("reasoning_content", "reasoning", "thinking")
        message = _assistant() | dict.fromkeys(fields, _THOUGHT)
        parts = self._probe.parts([_user(), message], _USER, _THOUGHT, _ANSWER)
        if parts is None:
            return ()
        opening = _told_apart(self._opening(parts[1]), [self._answer])
        closing = _ids(_special(parts[2])[:1])
        return (Span(opening, (closing,)),) if opening and closing else ()

    def _tool_call(self) -> tuple[Span, ...]:
        for message in _tool_calls():
            parts = self._probe.parts([_user(), message], _USER, _TOOL, _VALUE)
            if parts is None:
                continue
            opening = _told_apart(self._opening(parts[1]), [self._answer, self._last_answer])
            closing = _ids(_special(parts[3]))
            if len(closing) > 1 and closing[-1] in self._closes:
                closing = closing[:-1]  # that was the end of the turn
            if opening:
                return (Span(opening, (closing[-1:],) if closing else ()),)
        return ()

    def _tool_result(self) -> Tokens:
        """What opens it: it may look much like a system text."""
        result = {"role": "tool", "content": _LATER, "tool_call_id": _CALL_ID, "name": _TOOL}
        for message in _tool_calls():
            parts = self._probe.parts([_user(), message, result], _USER, _VALUE, _LATER)
            if parts is not None:
                return self._opening(parts[2])
        return []


def _told_apart(opening: Tokens, others: Sequence[Tokens]) -> Ids | None:
    """The shortest part of an opening that tells it from the others.

    It begins with a token of its own, so that it cannot come about within a text. None where
    there is no such part.
    """
    opening = _stripped(opening)
    others = [_stripped(other) for other in others]
    end = max(_num_common(opening, other) for other in others)
    is_text_possible = _ids(opening[:end]) in map(_ids, others)
    while end < len(opening) and opening[end].is_space:
        end += 1
    if end == len(opening) or (is_text_possible and not opening[end].is_special):
        return None
    starts = [i for i in range(end + 1) if opening[i].is_special]
    return _ids(opening[starts[-1] : end + 1]) if starts else None


def _num_common(first: Tokens, second: Tokens) -> int:
    """How many tokens both begin with."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a.id != b.id:
            return i
    return min(len(first), len(second))


def _split(tokens: Tokens, closes: Collection[int]) -> list[Tokens]:
    """Turns, without what closes them; none is blank."""
    turns: list[Tokens] = [[]]
    for token in tokens:
        if token.id in closes:
            turns.append([])
        else:
            turns[-1].append(token)
    return [turn for turn in map(_stripped, turns) if turn]


def _stripped(tokens: Tokens) -> Tokens:
    visible = [i for i, token in enumerate(tokens) if not token.is_space]
    return tokens[visible[0] : visible[-1] + 1] if visible else []


def _special(tokens: Tokens) -> Tokens:
    return [token for token in tokens if token.is_special]


def _ids(tokens: Tokens) -> Ids:
    return tuple(token.id for token in tokens)


def _last_index(ids: Ids, part: Ids) -> int:
    """Where `part` was last seen in `ids`, -1 if nowhere."""
    starts = range(len(ids) - len(part), -1, -1)
    return next((i for i in starts if ids[i : i + len(part)] == part), -1)


def _user(text: str = _USER) -> Message:
    return {"role": "user", "content": text}


def _assistant() -> Message:
    return {"role": "assistant", "content": _ANSWER}


def _tool_calls() -> Iterator[Message]:
    """Templates differ in what they take: an absent or empty text, arguments parsed or not."""
    for content in (None, ""):
        for arguments in ({"key": _VALUE}, f'{{"key": "{_VALUE}"}}'):
            function = {"name": _TOOL, "arguments": arguments}
            call = {"id": _CALL_ID, "type": "function", "function": function}
            yield {"role": "assistant", "content": content, "tool_calls": [call]}
