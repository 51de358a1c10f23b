"""What is kept of users' text: nothing, keyed hashes, or the text, as configured."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_models import QWEN_3, tokenizer_of
from fake_engine import end_message, frame_message, start_message, write_rules

from saeguard.monitor.alerts import RequestRecord
from saeguard.monitor.config import load_config
from saeguard.monitor.detector import GRACE_S, Detector
from saeguard.monitor.errors import ConfigError
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Engine, load_rules

IDS = [tokenizer_of(QWEN_3).token_to_id(letter) for letter in "aba"]


def record_of(tmp_path: Path, texts: TokenTexts) -> RequestRecord:
    """Of a request with these tokens."""
    engine = Engine(load_rules([write_rules(tmp_path)]), ["deceit", "calm"])
    detector = Detector(engine, "w", num_features=2, record_tokens=8)
    detector.start(start_message("r", IDS), texts)
    frame, arrays = frame_message({"r": (0, [[0.0, 0.0]] * 3)}, 1, "w")
    arrays.token_ids[:] = IDS
    detector.observe(frame, arrays, 0.0)
    detector.end(end_message("r", 3), 0.0)
    (request,) = detector.finished(GRACE_S)
    return request.record(("deceit", "calm"))


@pytest.fixture
def file(tmp_path: Path) -> str:
    return QWEN_3.save(tmp_path / "model")


def test_a_hash_tells_only_which_tokens_are_alike(tmp_path: Path, file: str):
    texts = TokenTexts(file, True, hash_key=b"k")
    record = record_of(tmp_path, texts)
    assert record.token_ids is None, "they would tell the text"
    first, second, third = record.texts
    assert first == third != second
    assert first.startswith("#")
    assert TokenTexts(file, True, hash_key=b"other").text(IDS[0]) != first
    assert TokenTexts(file, True, hash_key=b"k").text(IDS[0]) == first


def test_text_is_kept_only_where_it_is_asked_for(tmp_path: Path, file: str):
    record = record_of(tmp_path, TokenTexts(file, True))
    assert (record.token_ids, record.texts) == (IDS, ["a", "b", "a"])
    record = record_of(tmp_path, TokenTexts(file, False))
    assert (record.token_ids, record.texts) == (None, None)


def test_hashing_needs_a_key(tmp_path: Path):
    config = tmp_path / "saeguard.yaml"
    config.write_text("version: 1\nrules: [a.yaml]\nwatchlist: w\ncapture_text: hash\n")
    with pytest.raises(ConfigError, match="capture_text: hash needs a hash_key_file"):
        load_config(config)
    config.write_text(config.read_text() + "hash_key_file: key\n")
    assert load_config(config).hash_key_file == tmp_path / "key"
