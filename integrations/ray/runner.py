"""Shards over a Ray cluster, by Ray Data."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from math import ceil
from typing import Any

import ray.data
from ray.exceptions import RayError

from saeguard.integrations.output import printing_to
from saeguard.integrations.ray.attempts import Attempts, WorkerError
from saeguard.integrations.ray.cluster import connected
from saeguard.integrations.ray.worker import Failure, Row, Setting, Worker
from saeguard.monitor.shards import Result, Shard, Start

_PASSED_ON = ("CUDA_", "HF_", "OMP_", "SAEGUARD_", "TORCH", "VLLM_")
"""Variables that workers have as this process has them, on other machines too."""
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class RayRunner:
    """A `saeguard.monitor.shards.Runner`; see `ray_runner`."""

    num_workers: int
    address: str | None
    gpus: float

    def __call__(
        self, start: Start[Shard, Result], shards: Sequence[Shard]
    ) -> Generator[Result, None, None]:
        """A worker that ends is started anew, and its shard done again.

        Until it is through, what this process prints otherwise than by a file descriptor of its
        own is lost: Ray and its processes print what they like.

        Raises:
            ConfigError: there is no cluster.
            WorkerError: a shard, or the start, ended too many workers; or the cluster is gone.
        """
        with (
            open(os.devnull, "wb") as nowhere,
            printing_to(nowhere.fileno()),
            closing(self._results(start, shards)) as results,
        ):
            yield from results

    def _results(self, start: Any, shards: Sequence[Any]) -> Generator[Any, None, None]:
        num_workers = min(self.num_workers, len(shards))
        with connected(self.address, num_workers, ceil(num_workers * self.gpus)) as logs:
            attempts = Attempts(num_workers, logs)
            try:
                with closing(_rows(self._dataset(start, shards, attempts), logs)) as rows:
                    for row in rows:
                        yield _result(row)
            finally:
                with suppress(RayError):  # where the cluster is gone, they are
                    attempts.forget()

    def _dataset(self, start: Any, shards: Sequence[Any], attempts: Attempts) -> ray.data.Dataset:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = [{"number": i, "shard": pickle.dumps(s)} for i, s in enumerate(shards)]
        return ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            Worker,
            fn_constructor_args=(self._setting(), pickle.dumps(start), attempts),
            compute=ray.data.ActorPoolStrategy(
                size=attempts.num_workers, max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
            num_gpus=self.gpus,
        )

    def _setting(self) -> Setting:
        passed_on = {name: os.environ[name] for name in os.environ if name.startswith(_PASSED_ON)}
        if self.gpus:  # each worker has those that Ray gives it
            passed_on.pop("CUDA_VISIBLE_DEVICES", None)
        return Setting(os.getcwd(), passed_on)


def _rows(dataset: ray.data.Dataset, logs: str) -> Generator[Row, None, None]:
    """
    Raises:
        WorkerError: the cluster is gone, or whatever else Ray gives up for: its errors have no
            class in common.
    """
    before = set(threading.enumerate())
    try:
        with closing(iter(dataset.iter_rows())) as rows:
            yield from rows
    except Exception as error:
        said = (str(error).splitlines() or [""])[0]
        what = f"Ray gave up: {type(error).__name__}: {said}"
        raise WorkerError(what, f"its logs: {logs}") from error
    finally:
        # Ray Data's threads end soon; one that asks Ray for something once that is shut down has it
        # end this process. The prefetcher asks for nothing, and may wait for as long as there is
        # somebody who knows it.
        for thread in set(threading.enumerate()) - before:
            if thread.name != "Prefetcher":
                thread.join(_PATIENCE_S)


def _result(row: Row) -> Any:
    result = pickle.loads(row["result"])
    if isinstance(result, Failure):
        raise result.error
    return result
