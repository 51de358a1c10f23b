"""Every token has the phase that it belongs to, for six families of models."""

from __future__ import annotations

import re
import time
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from chat_models import (
    DEEPSEEK_R1,
    FAMILIES,
    GEMMA_3,
    GPT_OSS,
    LLAMA_3,
    MESSAGES,
    MISTRAL,
    QWEN_3,
    Family,
)

from saeguard.monitor.chat_template import ChatTemplate
from saeguard.monitor.phases import PhaseMatcher, PhaseTracker
from saeguard.monitor.tokens import TokenTexts
from saeguard.rules import Phase

SYSTEM, PROMPT, REASONING, ANSWER, TOOL_CALL = Phase

every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


@pytest.fixture
def matcher(family: Family, tmp_path: Path) -> PhaseMatcher:
    return TokenTexts(family.save(tmp_path), captured=False).phases


def read(tracker: PhaseTracker, ids: np.ndarray, *chunks: int) -> list[Phase]:
    """The phases of all tokens, fed in chunks of these lengths and then one by one."""
    position, phases = 0, []
    for length in chunks:
        phases += tracker.phases(position, ids[position : position + length]).tolist()
        position += length
    for i in range(position, len(ids)):
        is_prompt = i < tracker.prompt_len
        one = tracker.phases(i, ids[i : i + 1])[0] if is_prompt else tracker.next_phase(int(ids[i]))
        phases.append(one)
    return [Phase(int(phase)) for phase in phases]


def generated(matcher: PhaseMatcher, family: Family, prompt: str, text: str) -> list[Phase]:
    """The phases of what is generated after a prompt."""
    ids = [family.ids((ANSWER, part))[0] if part else np.empty(0, int) for part in (prompt, text)]
    tracker = PhaseTracker(ids[0].tolist(), matcher)
    return read(tracker, np.concatenate(ids))[len(ids[0]) :]


@every_family
def test_the_fixture_is_what_the_template_renders(family: Family):
    rendered = ChatTemplate(family.template, family.config).render(MESSAGES, is_prompt=True)
    written = "".join(text for _, text in family.prompt)
    dates = {"llama3": f"{date.today():%d %b %Y}", "gpt_oss": f"{date.today():%Y-%m-%d}"}
    assert rendered == written.replace("DATE", dates.get(family.name, ""))


@every_family
def test_every_token_has_its_phase_fed_one_by_one(family: Family, matcher: PhaseMatcher):
    prompt, _ = family.ids(*family.prompt)
    ids, phases = family.ids(*family.prompt, *family.generated)
    assert read(PhaseTracker(prompt.tolist(), matcher), ids) == phases.tolist()


@every_family
def test_chunks_make_no_difference(family: Family, matcher: PhaseMatcher):
    prompt, _ = family.ids(*family.prompt)
    ids, phases = family.ids(*family.prompt, *family.generated)
    rng = np.random.default_rng(7)
    for _ in range(200):
        cuts = np.sort(rng.choice(len(ids), size=rng.integers(0, 9), replace=False))
        chunks = np.diff([0, *cuts]).tolist()
        assert read(PhaseTracker(prompt.tolist(), matcher), ids, *chunks) == phases.tolist()
