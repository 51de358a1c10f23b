"""How often workers have ended over the same thing, so that it is not tried for ever."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

# Experimental, yet what Ray's own libraries keep such things in.
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put

from saeguard.monitor.errors import SaeguardError

MAX_DEATHS = 3
"""A fourth worker would hardly fare better."""

_NAMESPACE = "saeguard"


class WorkerError(SaeguardError):
    """Workers of Ray ended, again and again."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """Those of one run: each is a key in the cluster's memory while it lasts, so that one whose
    worker was killed stays.
    """

    num_workers: int
    logs: str
    """Where Ray's are, in words."""
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    @contextmanager
    def starting(self) -> Iterator[None]:
        """A worker starts.

        Raises:
            WorkerError: too many ended so.
        """
        with self._attempt("the start", "start", self.num_workers):
            yield

    @contextmanager
    def shard(self, number: int, name: str) -> Iterator[None]:
        """A worker works on a shard.

        Raises:
            WorkerError: too many ended so.
        """
        with self._attempt(name, str(number), 1):
            yield

    def forget(self) -> None:
        """The run is over."""
        _internal_kv_del(self.run, del_by_prefix=True, namespace=_NAMESPACE)

    @contextmanager
    def _attempt(self, name: str, key: str, num_at_once: int) -> Iterator[None]:
        prefix = f"{self.run}/{key}/"
        if len(_internal_kv_list(prefix, namespace=_NAMESPACE)) >= num_at_once + MAX_DEATHS - 1:
            raise WorkerError(
                f"{name} has ended {MAX_DEATHS} workers of Ray",
                f"Ray's logs may say why: {self.logs}; often there was too little memory",
            )
        own = prefix + uuid.uuid4().hex
        _internal_kv_put(own, b"", namespace=_NAMESPACE)
        try:
            yield
        finally:
            _internal_kv_del(own, namespace=_NAMESPACE)
