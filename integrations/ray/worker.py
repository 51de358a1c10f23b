"""What runs in each process of Ray: it does the work on one shard after the other."""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from saeguard.integrations.ray.attempts import Attempts
from saeguard.monitor.shards import Start

Row = dict[str, Any]
"""What Ray carries: `number` and `shard`, or its `result`; both pickled, so that Arrow leaves them
as they are.
"""


@dataclass(frozen=True, slots=True)
class Failure:
    """What a shard raised."""

    error: Exception


@dataclass(frozen=True, slots=True)
class Setting:
    """Of the command, for its processes elsewhere."""

    directory: str
    """Where relative paths are relative to."""
    variables: Mapping[str, str]
    """Of the environment."""

    def take_on(self) -> None:
        """Be there, where that directory is on this machine."""
        os.environ.update(self.variables)
        with contextlib.suppress(OSError):
            os.chdir(self.directory)


class Worker:
    """One process."""

    def __init__(self, setting: Setting, start: bytes, attempts: Attempts) -> None:
        """
        Args:
            start: a pickled `Start`; unpickled once the setting is as it should be.
        """
        setting.take_on()
        self._attempts = attempts
        self._open = contextlib.ExitStack()
        self._work: Callable[[Any], Any] | None = None
        self._failure: Failure | None = None
        try:
            with attempts.starting():
                begin: Start[Any, Any] = pickle.loads(start)
                self._work = self._open.enter_context(begin())
        except Exception as error:  # a shard says it, in its turn
            self._failure = _failure(error)

    def __call__(self, row: Row) -> Row:
        return {"result": pickle.dumps(self._result(row["number"], row["shard"]))}

    def __del__(self) -> None:
        self._open.close()  # Ray calls it where a worker ends in peace

    def _result(self, number: int, pickled: bytes) -> Any:
        if self._work is None:
            return self._failure
        try:
            shard = pickle.loads(pickled)
            with self._attempts.shard(number, str(shard)):
                return self._work(shard)
        except Exception as error:  # the command raises it
            return _failure(error)


def _failure(error: Exception) -> Failure:
    """With its traceback as a note, since pickling leaves nothing of it."""
    error.add_note("in a worker of Ray:\n" + traceback.format_exc())
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of somebody else's making
        return Failure(RuntimeError("".join(traceback.format_exception_only(error))))
    return Failure(error)
