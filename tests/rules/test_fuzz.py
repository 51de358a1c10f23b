"""Whatever becomes of a rule file: it loads, or is refused with findings that point into it."""

import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from saeguard.rules import RuleErrors, RuleSet, load_rules
from tests.rules.invalid import COMPLETE

NUM_FILES = 10_000
CHUNK = 1_000
NASTY = [
    *(b"[]{}:,'\"\\|>?@`=~%*&!#-\n\r\t\x00\x1b\x85"[i : i + 1] for i in range(28)),
    *(b"\xff", b"\xc3", b"\xef\xbb\xbf", "\u2028".encode(), "é".encode(), "😀".encode()),
    *(b"null", b"~", b"yes", b"no", b"on", b"1e3", b".nan", b".inf", b"-1", b"0", b"0x10", b"017"),
    *(b"22:22", b"1_000", b"9" * 400, b"2026-01-01", b"2026-13-45", b"2026-01-01 10:00:00"),
    *(b"{}", b"[]", b"[[]]", b"{a: b}", b"''", b"<<: ", b"? ", b"- ", b"---\n", b"...\n", b"\r\n"),
    *(b"!!set ", b"!!binary ", b"!!python/name:os.system ", b"&a ", b"*sae", b"*a", b"&a [*a]"),
    *(b"$agents", b"$", b"*" * 300, b"{rule.title}", b"{{", b"}", b"40% of max", b"999% of max"),
    *(b"any of *", b"2 of (", b"not " * 300, b"(" * 900, b"fiction", b"campaign", b"signals"),
    *(b"1 token", b"0 tokens", b"99999 tokens", b"10m", b"pack:", b"a" * 300, b"[" * 100),
]

Mutation = Callable[[bytes, Random], bytes]


def flip_a_byte(text: bytes, random: Random) -> bytes:
    at = random.randrange(len(text))
    return text[:at] + bytes([text[at] ^ 1 << random.randrange(8)]) + text[at + 1 :]


def delete_a_line(text: bytes, random: Random) -> bytes:
    lines = text.splitlines(keepends=True)
    del lines[random.randrange(len(lines))]
    return b"".join(lines)


def repeat_a_line(text: bytes, random: Random) -> bytes:
    lines = text.splitlines(keepends=True)
    lines.insert(random.randrange(len(lines)), random.choice(lines))
    return b"".join(lines)


def swap_lines(text: bytes, random: Random) -> bytes:
    lines = text.splitlines(keepends=True)
    i, j = random.randrange(len(lines)), random.randrange(len(lines))
    lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


def replace_a_token(text: bytes, random: Random) -> bytes:
    token = random.choice(list(re.finditer(rb"[^\s,:{}\[\]]+", text)))
    return text[: token.start()] + random.choice(NASTY) + text[token.end() :]


def swap_tokens(text: bytes, random: Random) -> bytes:
    tokens = list(re.finditer(rb"[^\s,:{}\[\]]+", text))
    token, other = random.choice(tokens), random.choice(tokens)
    return text[: token.start()] + other[0] + text[token.end() :]


def insert(text: bytes, random: Random) -> bytes:
    at = random.randrange(len(text))
    return text[:at] + random.choice(NASTY) + text[at:]


def cut_off(text: bytes, random: Random) -> bytes:
    return text[: random.randrange(1, len(text))]


MUTATIONS: list[Mutation] = [
    flip_a_byte,
    delete_a_line,
    repeat_a_line,
    swap_lines,
    replace_a_token,
    replace_a_token,
    swap_tokens,
    insert,
    cut_off,
]


def mutated(text: bytes, random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 2, 3))):
        if len(text) > 1:
            text = random.choice(MUTATIONS)(text, random)
    return text


def lines_of(content: bytes) -> list[str]:
    """As YAML counts them."""
    text = content.decode("utf-8-sig", errors="replace")
    return re.split("\r\n|[\r\n\x85\u2028\u2029]", text)


def outcome(path: Path) -> RuleSet | RuleErrors:
    try:
        return load_rules([path])
    except RuleErrors as errors:
        return errors


@pytest.mark.parametrize("seed", range(NUM_FILES // CHUNK))
def test_a_mutated_file_loads_or_is_refused_with_findings_inside_it(seed, tmp_path):
    random, original = Random(seed), COMPLETE.read_bytes()
    path = tmp_path / "rules.yaml"
    num_refused = 0
    for _ in range(CHUNK):
        content = mutated(original, random)
        path.write_bytes(content)
        result = outcome(path)
        if isinstance(result, RuleErrors):
            num_refused += 1
            assert result.errors
            lines = lines_of(content)
            for error in result.errors:
                assert error.path == path
                assert 1 <= error.line <= len(lines), (error, content)
                assert 1 <= error.column <= len(lines[error.line - 1]) + 1, (error, content)
                assert error.message
                assert "\n" not in error.message
    assert CHUNK // 2 < num_refused < CHUNK
