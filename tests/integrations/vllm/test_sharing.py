"""Engines that share a run directory agree on who starts the monitor, whatever becomes of them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from saeguard.integrations.vllm.sharing import Seat


def test_only_the_first_to_come_is_the_first(tmp_path: Path):
    seats = [Seat(tmp_path) for _ in range(3)]
    assert [seat.is_first for seat in seats] == [True, False, False]
    for seat in reversed(seats):
        seat.leave()
    assert not list(tmp_path.iterdir())


def test_the_first_waits_for_the_others_but_not_for_ever(tmp_path: Path):
    first, second, third = (Seat(tmp_path) for _ in range(3))
    threading.Timer(0.3, second.leave).start()
    threading.Timer(0.6, third.leave).start()
    began_s = time.monotonic()
    first.leave(timeout_s=20)
    assert 0.5 < time.monotonic() - began_s < 10
    first, second = Seat(tmp_path), Seat(tmp_path)
    first.leave(timeout_s=0.1)
    assert not second.is_first
    second.leave()


def test_the_place_of_an_engine_that_was_killed_is_free(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from saeguard.integrations.vllm.sharing import Seat\n"
        "seat = Seat(Path(sys.argv[1])); print(seat.is_first, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    seat = Seat(tmp_path)
    assert not seat.is_first
    seat.leave()
    process.kill()
    process.wait()
    assert Seat(tmp_path).is_first
