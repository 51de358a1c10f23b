"""Sets the clock on the wall, for one process. Tests only.

Put this file's folder first on PYTHONPATH; the file that CLOCK_STEP_S names holds by how many
seconds the clock is to be wrong.
"""

import os
import time
from pathlib import Path

_step = Path(os.environ["CLOCK_STEP_S"])
_time_ns = time.time_ns


def _wrong_time_ns() -> int:
    return _time_ns() + int(_step.read_text() or 0) * 10**9


time.time_ns = _wrong_time_ns
time.time = lambda: _wrong_time_ns() / 1e9
