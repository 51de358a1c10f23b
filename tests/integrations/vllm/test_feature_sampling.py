"""Whatever a client asks of sampling, the rows are those of the tokens that it gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from live_engine import Ask
from running_monitor import wait_for
from tiny_models import Models
from watched_engine import WatchedEngine, relative_error

from saeguard.monitor.alerts import PHASES, RequestRecord
from saeguard.monitor.store import list_requests

pytestmark = pytest.mark.server

PROMPT = np.random.default_rng(7).integers(4, 256, 40).tolist()


def test_prompt_logprobs(watched: WatchedEngine, models: Models):
    answers = watched.engine.drive([Ask("logprobs", PROMPT, params={"prompt_logprobs": 2})])
    watched.assert_exact(models.base, PROMPT, answers["logprobs"])


def test_each_of_n_samples_is_a_request_of_its_own_under_the_client_s_id(
    watched: WatchedEngine, models: Models
):
    params = {"n": 3, "temperature": 1.0}
    answer = watched.engine.drive([Ask("three", PROMPT, 12, params=params)])["three"]
    assert len({tuple(sequence) for sequence in answer.token_ids}) == 3
    for index in range(3):
        record = watched.assert_exact(
            models.base, PROMPT, answer, index, req_id=f"{index}_{answer.req_id}"
        )
        assert record.request_id == "three"


def test_structured_output(watched: WatchedEngine, models: Models):
    params = {"structured_outputs": {"choice": ["w17"]}, "ignore_eos": False}
    answer = watched.engine.drive([Ask("structured", PROMPT, 12, params)])["structured"]
    assert answer.token_ids[0][0] == 17
    watched.assert_exact(models.base, PROMPT, answer)


def search_beams(llm: Any) -> list[list[int]]:
    from vllm.sampling_params import BeamSearchParams

    params = BeamSearchParams(beam_width=2, max_tokens=4, ignore_eos=True)
    (output,) = llm.beam_search([{"prompt_token_ids": PROMPT}], params)
    return [list(sequence.tokens) for sequence in output.sequences]


def test_beam_search_is_a_request_for_each_beam_and_token(watched: WatchedEngine, models: Models):
    """vLLM sends a beam's tokens as the prompt of its next request, which is for one token."""
    before = {record.req_id for record in list_requests(watched.store, limit=10_000)}

    def records() -> list[RequestRecord]:
        new = [r for r in list_requests(watched.store, limit=10_000) if r.req_id not in before]
        return [record for record in new if record.num_tokens == record.prompt_len + 1]

    beams = watched.engine.call(search_beams)
    lengths = [40, 41, 41, 42, 42, 43, 43]
    wait_for(lambda: sorted(record.prompt_len for record in records()) == lengths)
    for record in records():
        assert record.coverage.observed == record.coverage.scheduled == record.prompt_len
        assert {PHASES[code] for code in record.phases} == {"prompt"}
    read = beams[0][:-1]
    expected = watched.expected(models.base, read)[1:]
    errors = [
        relative_error(record.score_array()[1:], expected)
        for record in records()
        if record.prompt_len == len(read)
    ]
    assert min(errors) <= 1e-4
    assert max(errors) > 1e-2, "the other beam reads something else"
