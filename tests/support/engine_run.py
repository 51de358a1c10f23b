"""Run real vLLM engines in a process of their own, and collect what they tell the monitor.

As a script it is that process: it reads jobs as JSON, generates, and prints each job's outputs
as JSON.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zmq

from saeguard.monitor import watchlist as wl
from saeguard.monitor.messages import Frame, FrameArrays, Message, decode

SHIMS = Path(__file__).parent / "shims"


@dataclass
class EngineRun:
    """What came out of one engine process."""

    outputs: list[list[int]]
    """Generated token ids of each prompt, of the last job."""
    messages: list[Message]
    frames: list[tuple[Frame, FrameArrays]]
    log: str
    by_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model directory -> `outputs` and `ready_s`, or `error`."""

    def scores_of(self, req_id: str) -> dict[int, np.ndarray]:
        """Position -> [features], of every row of a request."""
        rows = {}
        for frame, arrays in self.frames:
            for i, name in enumerate(frame.req_ids):
                if name == req_id:
                    for row in range(frame.row_starts[i], frame.row_starts[i + 1]):
                        rows[int(arrays.positions[row])] = arrays.scores[row]
        return rows


class EngineEnded(Exception):
    """There will be no more messages."""


class Inbox:
    """The monitor's end: keeps all that comes."""

    def __init__(self, run_dir: Path) -> None:
        self.messages: list[Message] = []
        self.frames: list[tuple[Frame, FrameArrays]] = []
        self._socket = zmq.Context.instance().socket(zmq.PULL)
        self._socket.bind(f"ipc://{run_dir / 'inbox'}")
        self.process: subprocess.Popen[str] | None = None

    def receive(self, timeout_ms: int = 300) -> Message | None:
        """The next message, or None when there is none for so long.

        Raises:
            EngineEnded: there is none, and will be none.
        """
        if not self._socket.poll(timeout_ms):
            if self.process is not None and self.process.poll() is not None:
                raise EngineEnded
            return None
        message, arrays = decode(self._socket.recv())
        if isinstance(message, Frame) and arrays is not None:
            self.frames.append((message, arrays))
        else:
            self.messages.append(message)
        return message

    def close(self) -> None:
        with contextlib.suppress(EngineEnded):
            while self.receive() is not None:
                pass
        self._socket.close()


def run_engine(
    work: Path,
    model: Path,
    watchlist: wl.Watchlist | None,
    prompts: list[list[int]],
    *,
    more_jobs: Sequence[tuple[Path, dict[str, Any]]] = (),
    max_tokens: int = 8,
    engine: dict[str, Any] | None = None,
    env: dict[str, str] | None = None,
    config: dict[str, Any] | None = None,
    v2: bool = False,
    piecewise: bool = False,
    meanwhile: Callable[[Inbox], None] | None = None,
    timeout_s: float = 240,
) -> EngineRun:
    """Generate greedily from token-id prompts; `watchlist=None` leaves saeguard unconfigured.

    With `more_jobs` (a model and more engine arguments) the same is done for each of them, one
    engine after another in one process; results are by model directory. Among the arguments
    `without` names what vLLM is not to have.

    With `meanwhile` the prompts are generated from again and again until it has returned, and once
    more after that.
    """
    work.mkdir(parents=True, exist_ok=True)
    inbox_dir = work / "run"
    inbox_dir.mkdir(mode=0o700, exist_ok=True)
    inbox = Inbox(inbox_dir)
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CACHE_ROOT": str(work / "cache"),
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(
            [*([str(SHIMS)] if v2 else []), *([str(SHIMS / "piecewise")] if piecewise else [])]
        ),
        **({"V2_ON_CPU": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"} if v2 else {}),
        **(env or {}),
    }
    environment.pop("SAEGUARD_CONFIG", None)
    if watchlist is not None:
        environment["SAEGUARD_CONFIG"] = str(write_config(work, watchlist, inbox_dir, config))
    job = {
        "engines": [
            {"model": str(path), **extra} for path, extra in ((model, engine or {}), *more_jobs)
        ],
        "prompts": prompts,
        "max_tokens": max_tokens,
        "until": None if meanwhile is None else str(work / "enough"),
        "engine": {
            "max_model_len": 256,
            "dtype": "float32",
            **({"compilation_config": {"mode": 3}} if piecewise else {}),
            **({} if not more_jobs else engine or {}),
        },
    }
    process = subprocess.Popen(
        [sys.executable, __file__], env=environment, cwd=work, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(process.communicate, json.dumps(job), timeout=timeout_s)
            inbox.process = process
            try:
                if meanwhile is not None:
                    meanwhile(inbox)
            except EngineEnded:
                pass  # its log says why
            finally:
                (work / "enough").touch()
            log, _ = ended.result()
    finally:
        process.kill()
        inbox.close()
    results = [json.loads(line[7:]) for line in log.splitlines() if line.startswith("RESULT ")]
    if not results:
        raise AssertionError(f"the engine ended with {process.returncode}:\n{log[-6000:]}")
    by_model = {result["model"]: result for result in results}
    return EngineRun(results[-1].get("outputs", []), inbox.messages, inbox.frames, log, by_model)


def write_config(
    work: Path, watchlist: wl.Watchlist, run_dir: Path, extra: dict[str, Any] | None = None
) -> Path:
    """With the watchlist beside it."""
    wl.save(watchlist, work / "watch.safetensors")
    path = work / "saeguard.yaml"
    values = {
        "version": 1,
        "rules": ["rules.yaml"],
        "watchlist": "watch.safetensors",
        "start_monitor": False,
        "run_dir": str(run_dir),
    }
    path.write_text(yaml.safe_dump({**values, **(extra or {})}))
    return path


@contextlib.contextmanager
def without(names: Sequence[str]) -> Iterator[None]:
    """vLLM as if it had not these names, each `module:name` or `module:Class.name`."""
    with contextlib.ExitStack() as restored:
        for name in names:
            module, _, path = name.partition(":")
            *owners, attribute = path.split(".")
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
            restored.callback(setattr, owner, attribute, vars(owner)[attribute])
            delattr(owner, attribute)
        yield


def generate(job: dict[str, Any], model: str, engine: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    register_in_process(model)
    started_s = time.monotonic()
    llm = LLM(**{**job["engine"], **engine})
    ready_s = time.monotonic() - started_s
    params = SamplingParams(temperature=0.0, max_tokens=job["max_tokens"], ignore_eos=True)
    prompts = [{"prompt_token_ids": p} for p in job["prompts"]]
    rounds, graphs = [], [num_graphs()]
    is_last = False
    while not is_last:
        is_last = job["until"] is None or Path(job["until"]).exists()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        rounds.append([list(o.outputs[0].token_ids) for o in outputs])
        graphs.append(num_graphs())
    llm.llm_engine.engine_core.shutdown()
    return {"outputs": rounds[-1], "rounds": rounds, "graphs": graphs, "ready_s": ready_s}


def num_graphs() -> int:
    """How many graphs this process has traced or compiled so far; its engine must run in it."""
    from torch._dynamo.utils import counters
    from vllm.compilation.counter import compilation_counter

    return counters["stats"]["unique_graphs"] + compilation_counter.num_backend_compilations


def register_in_process(model: str) -> None:
    """Spare vLLM the process in which it would import the model class to look at it (10 s each)."""
    from vllm import ModelRegistry

    for name in json.loads((Path(model) / "config.json").read_text())["architectures"]:
        ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def main() -> None:
    job = json.load(sys.stdin)
    for engine in job["engines"]:
        model = engine["model"]
        try:
            with without(engine.pop("without", ())):
                result = generate(job, model, engine)
        except Exception as error:
            if len(job["engines"]) == 1:
                raise
            traceback.print_exc()
            result = {"error": repr(error)}
        print("RESULT " + json.dumps({"model": model, **result}), flush=True)
        if len(job["engines"]) > 1:  # in-process engines share torch.distributed's state
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()


if __name__ == "__main__":
    main()
