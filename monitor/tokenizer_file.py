"""A model's tokenizer.json: the file and the library that reads it are programs of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tokenizers import Tokenizer


def read_tokenizer(file: str) -> Tokenizer:
    """The tokenizer that tells every token of a text, and nothing else.

    Raises some Exception where the file cannot be used: the library has nothing narrower.
    """
    with panics_as_errors():
        tokenizer = Tokenizer.from_file(file)
        # The file may keep what was last asked of it, which would alter or break any encoding.
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """A panic of the library is no Exception, and would end the monitor."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # it cannot be imported
            raise
        raise RuntimeError(f"the tokenizers library panicked: {error}") from None
