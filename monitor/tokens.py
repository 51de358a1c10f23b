"""Token text for messages and records, where the configuration lets text be captured."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Thread

from tokenizers import Tokenizer

from saeguard.monitor.chat_template import read_chat_templates
from saeguard.monitor.config import Phases
from saeguard.monitor.delimiters import Delimiters
from saeguard.monitor.deriving import derive_apart
from saeguard.monitor.known_delimiters import configured_delimiters, known_delimiters
from saeguard.monitor.logging import logger
from saeguard.monitor.phases import PhaseMatcher
from saeguard.monitor.tokenizer_file import panics_as_errors, read_tokenizer

log = logger(__name__)

NOT_CAPTURED = "[text not captured]"
UNREADABLE = "[not decodable]"
_HASH_DIGITS = 12

WAIT_S = 2.0
"""How long a model's first request waits for what its template shows. It is there in less than a
second, unless the template is broken or the machine overloaded."""


class TokenTexts:
    """What is known of a served model's tokens: decodes them one at a time, tells their phases."""

    def __init__(
        self,
        tokenizer_file: str | None,
        captured: bool,
        phases: Phases | None = None,
        hash_key: bytes | None = None,
    ) -> None:
        """
        Args:
            captured: whether anything of the text may be kept.
            hash_key: if so, only hashes of it: the same for the same token, and nothing else can be
                learnt from them without the key.
        """
        self._tokenizer = _read_tokenizer(tokenizer_file)
        self._hash_key = hash_key
        self.captured = captured and self._tokenizer is not None
        self.phases = PhaseMatcher(Delimiters())
        """Known even when no text is kept. Requests that begin later may get a better one."""
        self.text = lru_cache(maxsize=65_536)(self._text)
        if self._tokenizer is not None and tokenizer_file is not None:
            self._find_delimiters(self._tokenizer, tokenizer_file, phases or Phases())

    @property
    def readable(self) -> bool:
        """Whether the text may be kept as it is."""
        return self.captured and self._hash_key is None

    def _find_delimiters(self, tokenizer: Tokenizer, file: str, phases: Phases) -> None:
        """Those that are configured come first, then what the model's template shows."""
        configured, known = Delimiters(), Delimiters()
        with _reported("no_configured_phases", file):
            configured = configured_delimiters(phases, tokenizer)
        with _reported("no_known_phases", file):
            known = known_delimiters(tokenizer)
        self.phases = PhaseMatcher(known.replaced_by(configured))

        def add_templates() -> None:
            found = known
            with _reported("no_phases_of_template", file):
                templates = read_chat_templates(Path(file).parent, phases.chat_template)
                if templates:
                    found |= derive_apart(file, templates)
            found = found.replaced_by(configured)
            self.phases = PhaseMatcher(found)
            with _reported("no_phases", file):
                log.info("phases", **found.describe(tokenizer))

        adding = Thread(target=add_templates, name="saeguard-template", daemon=True)
        adding.start()
        adding.join(WAIT_S)
        if adding.is_alive():
            log.warning("slow_chat_template", file=file, effect="known delimiters count for now")

    def _text(self, token_id: int) -> str:
        if token_id < 0 or not self.captured or self._tokenizer is None:
            return NOT_CAPTURED
        if self._hash_key is not None:
            name = hmac.new(self._hash_key, str(token_id).encode(), hashlib.sha256)
            return f"#{name.hexdigest()[:_HASH_DIGITS]}"
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
    except Exception as error:
        log.error("unreadable_tokenizer", file=file, error=str(error))
        return None


@contextmanager
def _reported(event: str, file: str) -> Iterator[None]:
    """A tokenizer and its template are programs of others: what fails in them is only logged."""
    try:
        with panics_as_errors():
            yield
    except Exception as error:
        log.error(event, file=file, error=str(error) or repr(error))
