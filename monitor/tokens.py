"""Token text for messages and records, where the configuration lets text be captured."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from saeguard.monitor.logging import logger
from saeguard.monitor.phases import reasoning_tokens

log = logger(__name__)

NOT_CAPTURED = "[text not captured]"


class TokenTexts:
    """What is known of a served model's tokens: decodes them one at a time."""

    def __init__(self, tokenizer_file: str | None, captured: bool) -> None:
        self._tokenizer = None
        if tokenizer_file is not None and Path(tokenizer_file).is_file():
            try:
                self._tokenizer = Tokenizer.from_file(tokenizer_file)
            except Exception as error:  # the library raises nothing narrower
                log.error("unreadable_tokenizer", file=tokenizer_file, error=str(error))
        self.captured = captured and self._tokenizer is not None
        self.delimiters = None if self._tokenizer is None else reasoning_tokens(self._tokenizer)
        """Between which tokens the model reasons: known even when no text is kept."""
        self.text = lru_cache(maxsize=65_536)(self._text)

    def _text(self, token_id: int) -> str:
        if token_id < 0 or not self.captured or self._tokenizer is None:
            return NOT_CAPTURED
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
