"""Token text for messages and records, where the configuration lets text be captured."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from saeguard.monitor.phases import ReasoningTokens, reasoning_tokens

NOT_CAPTURED = "[text not captured]"


class TokenTexts:
    """Decodes single tokens of the served model."""

    def __init__(self, tokenizer_file: str | None, captured: bool) -> None:
        self._tokenizer = None
        if tokenizer_file is not None and Path(tokenizer_file).is_file():
            self._tokenizer = Tokenizer.from_file(tokenizer_file)
        self._captured = captured and self._tokenizer is not None
        self.text = lru_cache(maxsize=65_536)(self._text)

    @property
    def captured(self) -> bool:
        return self._captured

    @property
    def delimiters(self) -> ReasoningTokens | None:
        """Between which tokens the model reasons: known even when no text is kept."""
        return None if self._tokenizer is None else reasoning_tokens(self._tokenizer)

    def _text(self, token_id: int) -> str:
        if not self._captured or self._tokenizer is None:
            return NOT_CAPTURED
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
