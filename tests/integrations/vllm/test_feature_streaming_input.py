"""A request whose input comes in parts, with generated tokens between them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from tiny_models import Models
from watched_engine import WatchedEngine, relative_error

pytestmark = pytest.mark.server

PARTS = [np.random.default_rng(i).integers(4, 256, 20 - 5 * i).tolist() for i in range(2)]
MAX_TOKENS = 4


def stream(llm: Any, req_id: str) -> list[int]:
    """Ask with every part in turn, then end the input; all that was generated."""
    from vllm import SamplingParams

    engine = llm.llm_engine
    generated: list[int] = []
    for i, part in enumerate([*PARTS, [0]]):  # the last one only says that there are no more
        request = engine.input_processor.process_inputs(
            req_id,
            {"prompt_token_ids": list(part)},
            SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, ignore_eos=True),
            supported_tasks=engine.get_supported_tasks(),
            resumable=i < len(PARTS),
        )
        request.external_req_id = req_id
        engine.output_processor.add_request(deepcopy(request), None, None, 0)
        engine.engine_core.add_request(request)  # both add to its prompt
        for _ in range(MAX_TOKENS + 3):
            for output in engine.step():
                generated = list(output.outputs[0].token_ids)
    return generated


def test_every_row_has_its_position_and_all_are_accounted_for(
    watched: WatchedEngine, models: Models
):
    generated = watched.engine.call(stream, "stream-abcdefgh")
    assert len(generated) == 2 * MAX_TOKENS
    record = watched.record("stream-abcdefgh")
    # Of each answer vLLM drops the last token, which was not read, when more input comes.
    first, second = generated[: MAX_TOKENS - 1], generated[MAX_TOKENS:-1]
    token_ids = [*PARTS[0], *first, *PARTS[1], *second]
    got = record.score_array()
    assert len(got) == len(token_ids)
    assert relative_error(got[1:], watched.expected(models.base, token_ids)[1:]) <= 1e-4
    assert record.coverage.observed == record.coverage.scheduled >= len(token_ids)
