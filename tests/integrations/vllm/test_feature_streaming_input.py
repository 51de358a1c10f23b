"""A request whose input comes in parts, with generated tokens between them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from tiny_models import Models
from watched_engine import WatchedEngine, relative_error

from saeguard.monitor.alerts import PHASES

pytestmark = pytest.mark.server

PARTS = [np.random.default_rng(i).integers(4, 256, 20 - 5 * i).tolist() for i in range(2)]
MAX_TOKENS = 4


def stream(llm: Any, req_id: str, stops: list[int]) -> list[list[int]]:
    """Ask with every part in turn, then end the input; the answer to each part.

    Args:
        stops: the token at which each answer ends, or -1.
    """
    from vllm import SamplingParams

    engine = llm.llm_engine
    answers: list[list[int]] = []
    num_generated = 0
    for part, stop in [*zip(PARTS, stops, strict=True), ([0], -1)]:  # the last one only ends it
        params = {"stop_token_ids": [stop]} if stop >= 0 else {}
        request = engine.input_processor.process_inputs(
            req_id,
            {"prompt_token_ids": list(part)},
            SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True, **params),
            supported_tasks=engine.get_supported_tasks(),
            resumable=len(answers) < len(PARTS),
        )
        request.external_req_id = req_id
        engine.output_processor.add_request(deepcopy(request), None, None, 0)
        engine.engine_core.add_request(request)  # both add to its prompt
        generated: list[int] = []
        for _ in range(MAX_TOKENS + 3):
            for output in engine.step():
                generated = list(output.outputs[0].token_ids)
        answers.append(generated[num_generated:])
        num_generated = max(num_generated, len(generated))
    return answers[: len(PARTS)]


@pytest.fixture(scope="module")
def plain(watched: WatchedEngine) -> list[list[int]]:
    """The answers when nothing stops them."""
    answers: list[list[int]] = watched.engine.call(stream, "stream-abcdefgh", [-1, -1])
    return answers


def read(answers: list[list[int]]) -> tuple[list[int], list[str]]:
    """What the model has read, and as what. Of each answer vLLM drops the last token, which was
    not read, when more input comes.
    """
    first, second = (answer[:-1] for answer in answers)
    spans = [(PARTS[0], "prompt"), (first, "answer"), (PARTS[1], "prompt"), (second, "answer")]
    return (
        [token for tokens, _ in spans for token in tokens],
        [phase for tokens, phase in spans for _ in tokens],
    )


def test_every_row_has_its_position_and_phase_and_all_are_accounted_for(
    watched: WatchedEngine, models: Models, plain: list[list[int]]
):
    assert [len(answer) for answer in plain] == [MAX_TOKENS, MAX_TOKENS]
    record = watched.record("stream-abcdefgh")
    token_ids, phases = read(plain)
    got = record.score_array()
    assert len(got) == len(token_ids) == record.num_tokens - 1
    assert relative_error(got[1:], watched.expected(models.base, token_ids)[1:]) <= 1e-4
    assert [PHASES[code] for code in record.phases] == phases
    assert record.coverage.observed == record.coverage.scheduled >= len(token_ids)


def test_what_comes_in_the_place_of_a_token_that_was_read_ahead_is_scored(
    watched: WatchedEngine, models: Models, plain: list[list[int]]
):
    """Under async scheduling the model has read the stop token before vLLM knows that it is one. Up
    to 0.30 vLLM then keeps it, and answers with the token behind it, too.
    """
    answers = watched.engine.call(stream, "stream-stopped0", [plain[0][1], -1])
    num_dropped = 3 - len(answers[0])
    assert num_dropped in (0, 1)
    assert (answers[0][:2], len(answers[1])) == (plain[0][:2], MAX_TOKENS)
    record = watched.record("stream-stopped0")
    token_ids, phases = read(answers)
    got = record.score_array()
    assert len(got) == len(token_ids)
    assert relative_error(got[1:], watched.expected(models.base, token_ids)[1:]) <= 1e-4
    assert [PHASES[code] for code in record.phases] == phases
    assert record.coverage.observed == record.coverage.scheduled == len(token_ids) + num_dropped
