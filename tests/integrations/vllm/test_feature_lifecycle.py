"""What an operator does to a running engine, and to others beside it in the same process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from live_engine import Answer, Ask, drive
from tiny_models import Models
from watched_engine import WatchedEngine, watched_engine, write_watched_config

from saeguard.monitor.store import get_request

pytestmark = pytest.mark.server

PROMPT = np.random.default_rng(9).integers(4, 256, 40).tolist()


@pytest.fixture(scope="module")
def engine(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedEngine]:
    """With an allow-list of plugins, which has to name this one."""
    work = tmp_path_factory.mktemp("lifecycle")
    with watched_engine(
        work, models.base, {"VLLM_PLUGINS": "saeguard"}, enable_prefix_caching=False
    ) as engine:
        yield engine


def serve(engine: WatchedEngine, id: str, model: Path) -> None:
    """A request whose rows are right."""
    answer = engine.engine.drive([Ask(id, PROMPT)])[id]
    engine.assert_exact(model, PROMPT, answer)


def sleep_and_wake(llm: Any) -> None:
    llm.sleep(level=1)
    llm.wake_up()


def test_it_sleeps_and_wakes(engine: WatchedEngine, models: Models):
    serve(engine, "before", models.base)
    engine.engine.call(sleep_and_wake)
    serve(engine, "after", models.base)


def ask_workers(llm: Any) -> list[int]:
    return llm.collective_rpc(lambda worker: worker.rank)


def test_workers_are_called(engine: WatchedEngine, models: Models):
    assert engine.engine.call(ask_workers) == [0]
    serve(engine, "called", models.base)


def reload_weights(llm: Any, path: str) -> None:
    llm.collective_rpc("reload_weights", kwargs={"weights_path": path})


def test_other_weights_are_watched_from_then_on(engine: WatchedEngine, models: Models):
    engine.engine.call(reload_weights, str(models.merged["red"]))
    serve(engine, "red", models.merged["red"])
    engine.engine.call(reload_weights, str(models.base))
    serve(engine, "base", models.base)


def serve_beside(llm: Any, id: str, model: str, config: str) -> tuple[Answer, Answer]:
    """From another engine of this process, with a configuration of its own, and from the first."""
    from vllm import LLM

    additional = {"saeguard": {"config": config}}
    other = LLM(
        model=model, max_model_len=256, dtype="float32", enforce_eager=True,
        enable_prefix_caching=False, additional_config=additional,
    )  # fmt: skip
    answers = [drive(engine, [Ask(id, PROMPT)])[id] for engine in (other, llm)]
    other.llm_engine.engine_core.shutdown()
    return answers[0], answers[1]


def test_engines_of_one_process_have_a_monitor_each(
    engine: WatchedEngine, models: Models, tmp_path: Path
):
    config = write_watched_config(tmp_path, engine.receiver)
    other = replace(engine, directory=tmp_path)
    model = models.merged["blue"]
    of_other, of_first = engine.engine.call(serve_beside, "beside", str(model), str(config))
    other.assert_exact(model, PROMPT, of_other)
    engine.assert_exact(models.base, PROMPT, of_first)
    assert get_request(engine.store, of_other.req_id) is None
    assert get_request(other.store, of_first.req_id) is None


def embed(_: Any, model: str) -> int:
    from vllm import LLM

    pooling = LLM(
        model=model, runner="pooling", convert="embed", max_model_len=256, dtype="float32",
        enforce_eager=True,
    )  # fmt: skip
    (output,) = pooling.embed([{"prompt_token_ids": PROMPT}])
    pooling.llm_engine.engine_core.shutdown()
    return len(output.outputs.embedding)


def test_a_pooling_model_is_served_unwatched_and_that_is_said(
    engine: WatchedEngine, models: Models
):
    assert engine.engine.call(embed, str(models.base)) == 64
    log = engine.engine.log.read_text()  # there, too: its store belongs to the first engine's
    assert log.count("saeguard is BLIND: pooling models is not supported") == 1
