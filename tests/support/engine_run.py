"""Run real vLLM engines in a process of their own, and collect what they tell the monitor."""

from __future__ import annotations

import contextlib
import functools
import importlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
import zmq
from live_engine import V2, LiveEngine, make_engine

from saeguard.monitor import watchlist as wl
from saeguard.monitor.messages import Frame, FrameArrays, Message, decode


@dataclass
class EngineRun:
    """What came out of one engine process."""

    outputs: list[list[int]]
    """Generated token ids of each prompt, of the last job."""
    messages: list[Message]
    frames: list[tuple[Frame, FrameArrays]]
    log: str
    by_model: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model directory -> `outputs`, `rounds` of them and `graphs` so far, or `error`."""

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
        self.is_over: Callable[[], bool] = lambda: False

    def receive(self, timeout_ms: int = 300) -> Message | None:
        """The next message, or None when there is none for so long.

        Raises:
            EngineEnded: there is none, and will be none.
        """
        if not self._socket.poll(timeout_ms):
            if self.is_over():
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
    run_dir, enough = work / "run", work / "enough"
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = {**({"compilation_config": {"mode": 3}} if piecewise else {}), **(engine or {})}
    jobs = [{"model": str(each), **engine, **more} for each, more in ((model, {}), *more_jobs)]
    is_eager = all(job.get("enforce_eager") for job in jobs)
    environment = {
        "TORCHDYNAMO_DISABLE": "1" if is_eager else "0",
        **(V2 if v2 else {}),
        **(env or {}),
    }
    if watchlist is not None:
        environment["SAEGUARD_CONFIG"] = str(write_config(work, watchlist, run_dir, config))
    until = None if meanwhile is None else enough
    with contextlib.closing(Inbox(run_dir)) as inbox:
        with LiveEngine(work, environment) as live, ThreadPoolExecutor(1) as pool:
            if piecewise:
                live.call(_keep_piecewise)
            args = generate_with_all, jobs, prompts, max_tokens, until
            results = pool.submit(live.call, *args, timeout_s=timeout_s)
            inbox.is_over = results.done
            try:
                if meanwhile is not None:
                    meanwhile(inbox)
            except EngineEnded:
                pass  # its log says why
            finally:
                enough.touch()
        by_model = dict(zip((job["model"] for job in jobs), results.result(), strict=True))
        log = live.log.read_text(errors="replace")
    outputs = by_model[jobs[-1]["model"]].get("outputs", [])
    return EngineRun(outputs, inbox.messages, inbox.frames, log, by_model)


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


def _keep_piecewise(_: Any) -> None:
    import piecewise_on_cpu  # imports vLLM

    piecewise_on_cpu.keep()


def generate_with_all(
    _: Any,
    engines: list[dict[str, Any]],
    prompts: list[list[int]],
    max_tokens: int,
    until: Path | None,
) -> list[dict[str, Any]]:
    """Runs in the engines' process."""
    results: list[dict[str, Any]] = []
    for engine in engines:
        try:
            with without(engine.pop("without", ())):
                results.append(generate(engine, prompts, max_tokens, until))
        except Exception as error:
            if len(engines) == 1:
                raise
            traceback.print_exc()
            results.append({"error": repr(error)})
        if len(engines) > 1:  # in-process engines share torch.distributed's state
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
    return results


def generate(
    engine: dict[str, Any], prompts: list[list[int]], max_tokens: int, until: Path | None
) -> dict[str, Any]:
    from vllm import SamplingParams

    llm = make_engine(**engine)
    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    asked = [{"prompt_token_ids": prompt} for prompt in prompts]
    rounds, graphs = [], [num_graphs()]
    is_last = False
    while not is_last:
        is_last = until is None or until.exists()
        outputs = llm.generate(asked, params, use_tqdm=False)
        rounds.append([list(o.outputs[0].token_ids) for o in outputs])
        graphs.append(num_graphs())
    llm.llm_engine.engine_core.shutdown()
    return {"outputs": rounds[-1], "rounds": rounds, "graphs": graphs}


def num_graphs() -> int:
    """How many graphs this process has traced or compiled so far; its engine must run in it."""
    from torch._dynamo.utils import counters
    from vllm.compilation.counter import compilation_counter

    return counters["stats"]["unique_graphs"] + compilation_counter.num_backend_compilations
