"""Nothing in a tokenizer.json alters what its texts are tokenised to, or ends the monitor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_models import QWEN_3, tokenizer_of
from tokenizers import Tokenizer

from saeguard.monitor.tokenizer_file import panics_as_errors, read_tokenizer
from saeguard.monitor.tokens import TokenTexts

TRUNCATION = {"direction": "Right", "strategy": "LongestFirst"}
PADDING = {
    "strategy": {"Fixed": 64},
    "direction": "Left",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|im_end|>",
}


def saved(directory: Path, **settings: Any) -> str:
    file = Path(QWEN_3.save(directory))
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return str(file)


@pytest.mark.parametrize(
    "settings",
    [
        {"truncation": TRUNCATION | {"max_length": 2, "stride": 0}},
        {"truncation": TRUNCATION | {"max_length": 4, "stride": 10}},  # which makes encoding panic
        {"padding": PADDING},
    ],
)
def test_padding_and_truncation_that_were_saved_are_not_applied(
    tmp_path: Path, settings: dict[str, Any]
):
    text = "<|im_start|>user\nWhat is up?<|im_end|>"
    tokenizer = read_tokenizer(saved(tmp_path, **settings))
    assert tokenizer.encode(text).ids == tokenizer_of(QWEN_3).encode(text).ids


def test_a_panic_of_the_library_is_an_error_like_others(tmp_path: Path):
    stride = TRUNCATION | {"max_length": 4, "stride": 10}
    panicking = Tokenizer.from_file(saved(tmp_path, truncation=stride))
    with pytest.raises(RuntimeError, match="panicked"), panics_as_errors():
        panicking.encode("What is up? The sky.")


def test_a_token_that_cannot_be_decoded_is_said_to_be_so(tmp_path: Path):
    strip = {"type": "Strip", "content": "a", "start": 0, "stop": 5}  # panics on a token "a"
    texts = TokenTexts(saved(tmp_path, decoder=strip), captured=True)
    a, b = (tokenizer_of(QWEN_3).token_to_id(letter) for letter in "ab")
    assert (texts.text(a), texts.text(b)) == ("[not decodable]", "b")
