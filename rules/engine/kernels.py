"""What runs the costly loops: compiled code, if there was a compiler when saeguard was installed.

Without it the engine does the same with NumPy alone, at half the speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from saeguard.rules.engine.averages import Averages
from saeguard.rules.engine.evidence import Evidence
from saeguard.rules.engine.predicates import Predicates
from saeguard.rules.engine.runs import Runs
from saeguard.rules.engine.windowed import Windowed


@dataclass(frozen=True, slots=True)
class Kernels:
    """One class for each part of a call; those of all kernels have the same results."""

    name: str
    averages: type[Averages]
    evidence: type[Evidence]
    windowed: type[Windowed]
    predicates: type[Predicates]
    runs: type[Runs]


NUMPY = Kernels("numpy", Averages, Evidence, Windowed, Predicates, Runs)
COMPILED: Kernels | None
"""None where the extension was not built."""
try:
    from saeguard.rules.engine import compiled

    COMPILED = Kernels(
        "compiled",
        compiled.Averages,
        compiled.Evidence,
        compiled.Windowed,
        compiled.Predicates,
        compiled.Runs,
    )
except (ImportError, AttributeError):  # not built, or built before one of them was written
    COMPILED = None

in_use = COMPILED or NUMPY
"""What engines are made with."""
