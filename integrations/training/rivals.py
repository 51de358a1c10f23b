"""What a probe is compared with."""

from __future__ import annotations

from typing import Protocol

from saeguard.integrations.training.material import Doubles, Flags


class Rival(Protocol):
    """Another way to tell positives from negatives: some candidates, chosen among as probes are."""

    name: str
    caveat: str
    """Why the comparison may be unfair; empty where nothing is known."""

    def scores(self, train: Flags) -> Doubles:
        """Learn from some requests [requests]; all requests' scores [candidates, requests]."""

    def describe(self, candidate: int) -> str:
        """For people."""
