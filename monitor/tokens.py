"""Token text for messages and records, where the configuration lets text be captured."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from saeguard.monitor.chat_template import read_chat_templates
from saeguard.monitor.config import Delimited, Phases
from saeguard.monitor.delimiters import Delimiters, Span
from saeguard.monitor.known_delimiters import known_delimiters, written_spans
from saeguard.monitor.logging import logger
from saeguard.monitor.phases import PhaseMatcher
from saeguard.monitor.template_delimiters import derive
from saeguard.monitor.tokenizer_file import panics_as_errors, read_tokenizer

log = logger(__name__)

NOT_CAPTURED = "[text not captured]"
UNREADABLE = "[not decodable]"


class TokenTexts:
    """What is known of a served model's tokens: decodes them one at a time, tells their phases."""

    def __init__(
        self, tokenizer_file: str | None, captured: bool, phases: Phases | None = None
    ) -> None:
        self._tokenizer = _read_tokenizer(tokenizer_file)
        self.captured = captured and self._tokenizer is not None
        self.phases = PhaseMatcher(self._delimiters(tokenizer_file, phases or Phases()))
        """Known even when no text is kept."""
        self.text = lru_cache(maxsize=65_536)(self._text)

    def _delimiters(self, tokenizer_file: str | None, phases: Phases) -> Delimiters:
        if self._tokenizer is None or tokenizer_file is None:
            return Delimiters()
        try:
            found = _find_delimiters(self._tokenizer, Path(tokenizer_file).parent, phases)
        except Exception as error:  # a tokenizer and its template are programs of others
            log.error("no_phases", file=tokenizer_file, error=repr(error))
            return Delimiters()
        log.info("phases", **found.describe(self._tokenizer))
        return found

    def _text(self, token_id: int) -> str:
        if token_id < 0 or not self.captured or self._tokenizer is None:
            return NOT_CAPTURED
        try:
            with panics_as_errors():
                return self._tokenizer.decode([token_id], skip_special_tokens=False)
        except Exception:
            return UNREADABLE


def _read_tokenizer(file: str | None) -> Tokenizer | None:
    if file is None or not Path(file).is_file():
        log.warning("no_tokenizer_json", effect="all that is generated counts as answer")
        return None
    try:
        return read_tokenizer(file)
    except Exception as error:  # the library raises nothing narrower
        log.error("unreadable_tokenizer", file=file, error=str(error))
        return None


def _find_delimiters(tokenizer: Tokenizer, directory: Path, phases: Phases) -> Delimiters:
    """Of the model whose tokenizer's files lie in `directory`. What is configured comes first."""
    found = known_delimiters(tokenizer)
    for template in read_chat_templates(directory, phases.chat_template):
        found |= derive(template, tokenizer)

    def written(pair: Delimited | None) -> tuple[Span, ...]:
        return () if pair is None else tuple(written_spans(pair.open, pair.close, tokenizer))

    return Delimiters(
        system=written(phases.system) or found.system,
        reasoning=written(phases.reasoning) or found.reasoning,
        tool_call=written(phases.tool_call) or found.tool_call,
        turns=found.turns,
    )
