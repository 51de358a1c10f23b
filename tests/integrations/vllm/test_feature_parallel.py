"""Workers that share a model, and engines that share a monitor: every row is seen once, whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from live_engine import V2, Answer, Ask, LiveEngine, register_in_process
from tiny_models import Models
from watched_engine import WatchedEngine, watched_engine, write_watched_config

from saeguard.integrations.otel import OtlpReceiver
from saeguard.monitor import watchlist as wl
from saeguard.monitor.compile import compile_watchlist
from saeguard.monitor.sites import HookPoint
from saeguard.monitor.store import totals
from saeguard.rules import load_rules

pytestmark = pytest.mark.server

INNER = (HookPoint(1, "mlp_in"), HookPoint(2, "resid_pre"), HookPoint(2, "attn_z"))
"""One on the first stage of a pipeline, and two on the last, in whose first norm the stream enters
that another site reads as it leaves the first."""
SERVED = (("same", 0, None), ("same", 1, None), ("a", 0, None), ("b", 1, None), ("c", 1, "stop me"))
"""Client's id, engine and tenant; prompts tell them apart."""


@pytest.fixture(scope="module")
def served(
    models: Models, tmp_path_factory: pytest.TempPathFactory
) -> tuple[WatchedEngine, list[Answer]]:
    """Two engines, which have ended, and what they made of requests whose ids are the client's
    own.
    """
    work = tmp_path_factory.mktemp("engines")
    with OtlpReceiver() as receiver:
        config = write_watched_config(work, receiver, log="json")
        env = {
            "SAEGUARD_CONFIG": str(config),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
            "VLLM_DISABLE_REQUEST_ID_RANDOMIZATION": "1",
        }
        with LiveEngine(work, env) as live:
            answers = live.call(serve_with_two_engines, str(models.base))
    return WatchedEngine(live, work, wl.load(work / "watch.safetensors"), receiver), answers


def prompt_of(number: int) -> list[int]:
    return list(range(10 + 20 * number, 30 + 21 * number))


def serve_with_two_engines(_: Any, model: str) -> list[Answer]:
    """Runs in a process of its own."""
    return asyncio.run(_serve(model))


async def _serve(model: str) -> list[Answer]:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    register_in_process(model)
    llm = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            model=model, max_model_len=256, dtype="float32", enforce_eager=True,
            data_parallel_size=2, max_num_batched_tokens=32, max_num_seqs=4,
            enable_prefix_caching=False,
        )
    )  # fmt: skip

    async def ask(number: int) -> Answer:
        name, engine, tenant = SERVED[number]
        values = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 40 if tenant else 12}
        params = SamplingParams(**values, extra_args={"tenant": tenant} if tenant else None)
        prompt = {"prompt_token_ids": prompt_of(number)}
        async for output in llm.generate(prompt, params, name, data_parallel_rank=engine):
            last = output.outputs[0]
        return Answer(
            "dp1/" * engine + name, [list(last.token_ids)], [last.finish_reason], [last.stop_reason]
        )

    answers = [await ask(0), *await asyncio.gather(*(ask(n) for n in range(1, len(SERVED))))]
    llm.shutdown()
    return answers


def test_requests_of_two_engines_with_the_same_id_are_not_mixed_up(
    served: tuple[WatchedEngine, list[Answer]], models: Models
):
    watched, answers = served
    for number, answer in enumerate(answers[:-1]):
        record = watched.assert_exact(models.base, prompt_of(number), answer)
        assert record.request_id == SERVED[number][0]


def test_a_stop_reaches_the_engine_whose_request_it_is(
    served: tuple[WatchedEngine, list[Answer]], models: Models
):
    watched, answers = served
    assert (answers[-1].finish_reasons, answers[-1].stop_reasons) == (["stop"], ["saeguard:stop"])
    assert len(answers[-1].token_ids[0]) < 40
    assert watched.record(answers[-1].req_id).reason == "saeguard:stop"


def test_one_monitor_watches_both_engines_and_ends_after_them(
    served: tuple[WatchedEngine, list[Answer]],
):
    watched, _ = served
    counted = totals(watched.store)
    assert counted["requests/finished"] == len(SERVED)
    assert counted["tokens/scheduled"] == counted["tokens/observed"]
    log = watched.engine.log.read_text()
    assert log.count('"watching"') == 1


PROMPTS = {"long": list(range(10, 90)), "short": [5, 9, 9, 8], "other": list(range(100, 117))}


@pytest.fixture(scope="module")
def pipeline(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedEngine]:
    """Two stages. The stream that leaves layer 1, the last of the first stage, is
    tapped on the second. Prompts are computed in chunks, and two batches are under way at once.

    V2, since V1 computes nothing with stages on a CPU unless it compiles: the buffers between the
    stages are made by a warm-up that it leaves out.
    """
    with watched_engine(
        tmp_path_factory.mktemp("pipeline"), models.base,
        V2 | {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}, layers=(0, 1, 2), inner=INNER,
        pipeline_parallel_size=2, distributed_executor_backend="mp",
        max_num_batched_tokens=32, max_num_seqs=4, enable_prefix_caching=False,
    ) as watched:  # fmt: skip
        yield watched


def taps_by_stage(llm: Any) -> dict[int, tuple[list[str], list[str]]]:
    """Runs in the engine's process. The hook points, and where in the model their taps are."""
    return dict(llm.collective_rpc(_taps))


def _taps(worker: Any) -> tuple[int, tuple[list[str], list[str]]]:
    from vllm.distributed import get_pp_group

    modules = worker.model_runner.get_model().named_modules()
    hooked = [name for name, _ in modules if "saeguard" in name]
    return get_pp_group().rank_in_group, (
        [str(tap.site.hook_point) for tap in worker.saeguard._taps],
        hooked,
    )


def test_each_stage_taps_the_streams_that_its_own_layers_see(pipeline: WatchedEngine):
    found = pipeline.engine.call(taps_by_stage)
    assert found == {
        0: (
            ["blocks.0.hook_resid_post", "blocks.1.mlp.hook_in"],
            [
                "model.layers.1.input_layernorm.saeguard_resid_post",
                "model.layers.1.post_attention_layernorm.saeguard_mlp_in",
            ],
        ),
        1: (
            [
                "blocks.1.hook_resid_post",
                "blocks.2.attn.hook_z",
                "blocks.2.hook_resid_post",
                "blocks.2.hook_resid_pre",
            ],
            [
                "model.layers.2.self_attn.o_proj.saeguard_attn_z",
                "model.layers.2.input_layernorm.saeguard_resid_post",
                "model.layers.2.input_layernorm.saeguard_resid_pre",
                "model.norm.saeguard_resid_post",
            ],
        ),
    }


def test_every_row_is_seen_once_with_the_scores_of_all_stages(
    pipeline: WatchedEngine, models: Models
):
    asks = [Ask(name, prompt, 12) for name, prompt in PROMPTS.items()]
    answers = pipeline.engine.drive([*asks, Ask("gone", [7] * 20, 60, abort_at_step=12)])
    for name, prompt in PROMPTS.items():
        pipeline.assert_exact(models.base, prompt, answers[name])
    coverage = pipeline.record(answers["gone"].req_id).coverage
    assert coverage.observed == coverage.scheduled > 20


def test_all_stages_change_to_another_watchlist_under_running_requests(
    pipeline: WatchedEngine, models: Models
):
    """A step in which one has changed and another has not is of no use, and counted."""
    rules = pipeline.directory / "rules.yaml"
    rules.write_text(rules.read_text().replace("feature: east_1", "feature: north_1"))
    pipeline.watchlist = compile_watchlist(load_rules([rules]))
    wl.save(pipeline.watchlist, pipeline.directory / "watch.safetensors")
    answers: list[Answer] = []
    deadline_s = time.monotonic() + 60
    while totals(pipeline.store).get("rules/reload/ok", 0) == 0:
        assert time.monotonic() < deadline_s
        ask = Ask(f"running {len(answers)}", PROMPTS["short"], 30)
        answers += pipeline.engine.drive([ask]).values()
    for answer in answers:
        coverage = pipeline.record(answer.req_id).coverage
        assert coverage.unseen.keys() <= {"other_watchlist"}
        assert coverage.scheduled == coverage.observed + coverage.unseen.get("other_watchlist", 0)
        assert coverage.scheduled == 33
        assert coverage.observed > 25
    after = pipeline.engine.drive([Ask("after", PROMPTS["long"], 6)])["after"]
    record = pipeline.assert_exact(models.base, PROMPTS["long"], after)
    assert {"east_1", "north_1"}.intersection(record.features) == {"north_1"}
