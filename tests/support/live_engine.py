"""A real vLLM engine in a process of its own, driven step by step from a test.

In that process, which `preloaded` forks, `main` runs the functions that it is sent, with the engine
as their first argument, and sends back what they return.
"""

from __future__ import annotations

import json
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import older_builds
import preloaded

SHIMS = preloaded.SHIMS
V2 = {"V2_ON_CPU": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
"""Environment in which Model Runner V2 runs without a GPU."""
V1_ASYNC = {"V2_ON_CPU": "1", "VLLM_USE_V2_MODEL_RUNNER": "0"}
"""Environment with the streams and events that V1 needs for async scheduling."""


class EngineFailed(AssertionError):
    """What was asked of the engine's process raised there, or the process ended."""


class LiveEngine:
    """Its process, as long as it is entered."""

    def __init__(self, work: Path, env: dict[str, str] | None = None) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.log = work / "engine.log"
        self._work = work
        self._environment = {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CACHE_ROOT": str(work / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # so that a test can look at the scheduler
            "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles little functions even where it is eager
            **(env or {}),
        }

    def __enter__(self) -> LiveEngine:
        self._process = preloaded.start(__name__, self._environment, self._work, self.log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.close()

    def call(self, function: Callable[..., Any], *args: Any, timeout_s: float = 240) -> Any:
        """`function(llm, *args)` there; `llm` is what the last call of `start` has made."""
        module = sys.modules[function.__module__]
        if Path(__file__).parent != Path(str(module.__file__)).parent:  # cannot be imported there
            cloudpickle.register_pickle_by_value(module)
        connection = self._process.connection
        try:
            connection.send_bytes(cloudpickle.dumps((function, args)))
            if not connection.poll(timeout_s):
                self._process.kill()
            succeeded, result = pickle.loads(connection.recv_bytes())
        except (OSError, EOFError) as error:
            raise EngineFailed(f"the engine's process ended:\n{self._tail()}") from error
        if not succeeded:
            raise EngineFailed(f"{result}\n{self._tail()}")
        return result

    def start(self, is_async: bool = False, **engine: Any) -> None:
        """Make the engine, with these arguments of `LLM`. The CPU platform turns async scheduling
        off, even where it is asked for, unless `is_async`.
        """
        self.call(_start, is_async, engine)

    def drive(self, asks: Sequence[Ask]) -> dict[str, Answer]:
        """Serve these requests, together; answers by the requests' ids."""
        answers: dict[str, Answer] = self.call(drive, list(asks))
        return answers

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]


@dataclass(frozen=True)
class Ask:
    """A request, and when it comes and goes."""

    id: str
    prompt: Sequence[int]
    max_tokens: int = 8
    params: dict[str, Any] = field(default_factory=dict)
    """More of `SamplingParams`; `structured_outputs` is a dictionary, too."""
    lora: tuple[str, int, str] | None = None
    """Name, number and directory of an adapter."""
    salt: str | None = None
    """Of the prefix cache."""
    at_step: int = 0
    abort_at_step: int | None = None


@dataclass
class Answer:
    """What became of a request."""

    req_id: str
    """vLLM's own."""
    token_ids: list[list[int]] = field(default_factory=list)
    """Of each of its `n` sequences."""
    finish_reasons: list[str | None] = field(default_factory=list)
    stop_reasons: list[Any] = field(default_factory=list)


def drive(
    llm: Any, asks: Sequence[Ask], at_step: Callable[[int, dict[str, Answer]], None] | None = None
) -> dict[str, Answer]:
    """Step the engine until it has answered everything. Runs in its process.

    Args:
        at_step: called before each step with its number.
    """
    engine = llm.llm_engine
    answers: dict[str, Answer] = {}
    step = 0
    while step <= max(ask.at_step for ask in asks) or engine.has_unfinished_requests():
        for ask in asks:
            if ask.at_step == step:
                answers[ask.id] = Answer(_add(engine, ask))
            if ask.abort_at_step == step:
                engine.abort_request([ask.id])
        if at_step is not None:
            at_step(step, answers)
        for output in engine.step():
            answer = answers[output.request_id]
            for sequence in output.outputs:  # with `n`, one at a time
                _put(answer.token_ids, sequence.index, list(sequence.token_ids))
                _put(answer.finish_reasons, sequence.index, sequence.finish_reason)
                _put(answer.stop_reasons, sequence.index, sequence.stop_reason)
        step += 1
    for _ in range(3):  # what is finished leaves the worker's batch with the next step
        engine.step()
    return answers


def _put(values: list[Any], index: int, value: Any) -> None:
    values.extend([None] * (index + 1 - len(values)))
    values[index] = value


def _add(engine: Any, ask: Ask) -> str:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import StructuredOutputsParams

    values = {"temperature": 0.0, "ignore_eos": True, "max_tokens": ask.max_tokens, **ask.params}
    if wanted := values.pop("structured_outputs", None):
        values["structured_outputs"] = StructuredOutputsParams(**wanted)
    req_id: str = engine.add_request(
        ask.id,
        {"prompt_token_ids": list(ask.prompt), **({"cache_salt": ask.salt} if ask.salt else {})},
        SamplingParams(**values),
        lora_request=LoRARequest(*ask.lora) if ask.lora else None,
    )
    return req_id


def scheduler_of(llm: Any) -> Any:
    """Runs in the engine's process."""
    return llm.llm_engine.engine_core.engine_core.scheduler


class _Started:
    """The engine of this process."""

    llm: Any = None


def _start(_: Any, is_async: bool, engine: dict[str, Any]) -> None:
    if is_async:
        _keep_async_scheduling()
    _Started.llm = make_engine(**{"enforce_eager": True, **engine})


def make_engine(model: str, **engine: Any) -> Any:
    """A small one. Runs in its process."""
    from vllm import LLM

    register_in_process(model)
    older_builds.mend()
    return LLM(model, **{"max_model_len": 256, "dtype": "float32", **engine})


def register_in_process(model: str) -> None:
    """Spare vLLM the process in which it would import the model class to look at it (10 s each)."""
    from vllm import ModelRegistry

    for name in json.loads((Path(model) / "config.json").read_text())["architectures"]:
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def _keep_async_scheduling() -> None:
    from vllm.platforms.cpu import CpuPlatform

    original = CpuPlatform.check_and_update_config.__func__

    def check_and_update_config(cls: type, vllm_config: Any) -> None:
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = classmethod(check_and_update_config)


def main(connection: Connection) -> None:
    try:
        while True:
            function, args = pickle.loads(connection.recv_bytes())
            try:
                reply = True, function(_Started.llm, *args)
            except Exception:
                reply = False, traceback.format_exc()
            connection.send_bytes(cloudpickle.dumps(reply))
    except (EOFError, BrokenPipeError):
        pass  # nobody is there any more
    finally:  # workers would outlive us, and spin
        if _Started.llm is not None:
            _Started.llm.llm_engine.engine_core.shutdown()
