"""Requests to be captured are read line by line; a fault is said with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from saeguard.integrations.discovery.prompts import read_prompts
from saeguard.integrations.vllm.capture.data import read_items
from saeguard.monitor.errors import ConfigError


@pytest.mark.parametrize("read", [read_items, read_prompts])
def test_text_of_another_encoding_is_told_with_its_line(tmp_path: Path, read):
    path = tmp_path / "requests.jsonl"
    good = b'{"id": "a", "label": true, "prompt": "Hi"}\n'
    path.write_bytes(good + good.replace(b"Hi", b"\xe9t\xe9").replace(b'"a"', b'"b"'))
    with pytest.raises(ConfigError, match=r"requests\.jsonl:2: 'utf-8' codec can't decode"):
        read(path)
