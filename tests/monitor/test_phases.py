"""Every token has the phase that it belongs to, for six families of models."""

from __future__ import annotations

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
    MESSAGES,
    MISTRAL,
    QWEN_3,
    Family,
    tokenizer_of,
)

from saeguard.monitor.chat_template import ChatTemplate
from saeguard.monitor.config import Delimited, Phases
from saeguard.monitor.messages import FrameArrays
from saeguard.monitor.phases import PhaseMatcher, PhaseTracker, phases_of
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


def test_a_prompt_that_opens_the_reasoning_starts_in_it(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    prompt = "<|im_start|>user\nWhat is up?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    phases = generated(matcher, QWEN_3, prompt, "I should ask.\n</think>\n\nThe sky.")
    assert phases[0] == REASONING
    assert phases[-1] == ANSWER


def test_a_prompt_with_an_empty_block_of_thought_starts_with_the_answer(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    prompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert set(generated(matcher, QWEN_3, prompt, "The sky.")) == {ANSWER}


@pytest.mark.parametrize(
    ("family", "prompt"),
    [
        (QWEN_3, "<|im_start|>user\nWhat is <think>?<|im_end|>\n<|im_start|>assistant\n"),
        (DEEPSEEK_R1, "<｜User｜>What is <think>?<｜Assistant｜>"),
        (MISTRAL, "[INST]And?[/INST][TOOL_CALLS]sky[ARGS]{}</s>[TOOL_RESULTS]1[/TOOL_RESULTS]"),
        (MISTRAL, "[INST]What is [TOOL_CALLS]?[/INST]"),
    ],
    ids=["Qwen 3", "DeepSeek-R1", "a call of Mistral", "a question to Mistral"],
)
def test_what_an_earlier_turn_opened_does_not_reach_the_answer(
    matcher: PhaseMatcher, family: Family, prompt: str
):
    assert set(generated(matcher, family, prompt, "The sky.")) == {ANSWER}


def test_an_answer_that_is_continued_goes_on_in_its_phase(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    prompt = "<|im_end|>\n<|im_start|>assistant\n<think>\nI should"
    assert set(generated(matcher, QWEN_3, prompt, " ask.")) == {REASONING}


def test_a_call_that_begins_within_the_reasoning_ends_it(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    phases = generated(matcher, QWEN_3, "", "<think>Let me<tool_call>{}</tool_call>The sky.")
    assert list(dict.fromkeys(phases)) == [REASONING, TOOL_CALL, ANSWER]


def test_token_ids_without_a_template_are_all_prompt(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    ids, _ = QWEN_3.ids((PROMPT, "The sky. And the weather?"))
    assert set(read(PhaseTracker(ids.tolist(), matcher), ids)) == {PROMPT}


def test_token_ids_without_a_template_may_hold_delimiters_all_the_same(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    texts = (
        (PROMPT, "The sky."),
        (SYSTEM, "<|im_start|>system\nYou are kind.<|im_end|>"),
        (PROMPT, "And?<think>"),
    )
    prompt, _ = QWEN_3.ids(*texts)
    ids, phases = QWEN_3.ids(*texts, (REASONING, "I should</think>"), (ANSWER, "ask."))
    assert read(PhaseTracker(prompt.tolist(), matcher), ids) == phases.tolist()


def test_a_system_text_that_does_not_end_is_prompt(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    ids, _ = QWEN_3.ids((PROMPT, "<|im_start|>system\nYou are kind."))
    assert set(read(PhaseTracker(ids.tolist(), matcher), ids)) == {PROMPT}


def test_after_a_gap_the_phase_is_kept_and_the_tokens_are_counted_until_a_delimiter(
    tmp_path: Path,
):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    ids, _ = QWEN_3.ids((REASONING, "<think>I should ask.</think>The sky."))
    closing = ids.tolist().index(tokenizer_of(QWEN_3).token_to_id("</think>"))
    tracker = PhaseTracker([], matcher)
    with_gap = ids.copy()
    with_gap[1:3] = -1
    phases = read(tracker, with_gap, len(ids) - 1)
    assert set(phases[: closing + 1]) == {REASONING}
    assert set(phases[closing + 1 :]) == {ANSWER}
    assert tracker.num_unsure == closing - 3


def test_half_a_delimiter_before_a_gap_is_no_delimiter_after_it(tmp_path: Path):
    matcher = TokenTexts(GPT_OSS.save(tmp_path), captured=False).phases
    channel, analysis = GPT_OSS.ids((ANSWER, "<|channel|>analysis"))[0].tolist()
    assert read(PhaseTracker([], matcher), np.array([channel, analysis]))[-1] == REASONING
    assert read(PhaseTracker([], matcher), np.array([channel, -1, analysis]))[-1] == ANSWER


def test_a_close_is_seen_in_what_might_have_become_an_opening(tmp_path: Path):
    matcher = TokenTexts(GPT_OSS.save(tmp_path), captured=False).phases
    phases = generated(matcher, GPT_OSS, "", "<|channel|>analysis<|start|>assistant<|end|>The")
    assert phases[-2:] == [REASONING, ANSWER]


def test_delimiters_that_are_several_tokens_can_be_configured(tmp_path: Path):
    told = Phases(reasoning=Delimited(open="(ponder)", close="(/ponder)"))
    matcher = TokenTexts(GEMMA_3.save(tmp_path), False, told).phases
    ids, phases = GEMMA_3.ids(
        (ANSWER, "Let me look. (ponder"),
        (REASONING, ") I should ask. (/ponder)"),
        (ANSWER, " The sky."),
    )
    assert read(PhaseTracker([], matcher), ids) == phases.tolist()


def test_a_delimiter_may_be_its_own_opposite(tmp_path: Path):
    told = Phases(tool_call=Delimited(open="<end_of_turn>", close="<end_of_turn>"))
    matcher = TokenTexts(GEMMA_3.save(tmp_path), False, told).phases
    phases = generated(matcher, GEMMA_3, "", "The<end_of_turn>sky<end_of_turn>And")
    assert list(dict.fromkeys(phases)) == [ANSWER, TOOL_CALL]
    assert phases[-1] == ANSWER


def test_rows_of_a_step_get_the_phases_of_their_own_requests(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    first, first_phases = QWEN_3.ids(*QWEN_3.generated)
    prompt, prompt_phases = QWEN_3.ids(*QWEN_3.prompt)
    trackers = [PhaseTracker([], matcher), PhaseTracker(prompt.tolist(), matcher)]
    token_ids = np.concatenate([first[:1], prompt])
    positions = np.array([0, *range(len(prompt))], np.int32)
    rows = FrameArrays(np.empty((len(positions), 0), np.float32), token_ids, positions)
    phases = phases_of(trackers, np.array([0, 1, len(positions)]), rows)
    assert phases.tolist() == [first_phases[0], *prompt_phases]


def test_a_prompt_of_100_000_tokens_takes_milliseconds(tmp_path: Path):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    turns, _ = QWEN_3.ids(*QWEN_3.prompt)
    prompt = np.tile(turns, 100_000 // len(turns) + 1)
    tracker = PhaseTracker(prompt.tolist(), matcher)
    start_s = time.perf_counter()
    phases = tracker.phases(0, prompt)
    assert time.perf_counter() - start_s < 0.1  # 10 ms on an idle machine
    assert (phases == SYSTEM).mean() > 0.1


@pytest.mark.parametrize("filling", ["<think>", "</think><think>", "<tool_call><think>"])
def test_a_prompt_filled_with_delimiters_takes_milliseconds_too(tmp_path: Path, filling: str):
    matcher = TokenTexts(QWEN_3.save(tmp_path), captured=False).phases
    ids, _ = QWEN_3.ids((PROMPT, filling))
    tracker = PhaseTracker(np.tile(ids, 128_000 // len(ids)).tolist(), matcher)
    start_s = time.process_time()
    assert tracker.next_phase(int(ids[-1])) == REASONING
    assert time.process_time() - start_s < 0.1  # 10 ms on an idle machine; 200 ms one by one
