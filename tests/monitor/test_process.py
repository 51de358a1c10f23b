"""How the monitor shares the processor with the engine."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from fake_engine import RULES
from running_monitor import running_monitor, wait_for

from saeguard.monitor import process
from saeguard.monitor.process import Priority

STOPPING = RULES.replace("    message:", "    action: stop\n    message:")


def test_a_rule_that_stops_requests_brings_the_monitor_forward_when_it_comes_by_reload(
    tmp_path: Path,
):
    own = os.getpriority(os.PRIO_PROCESS, 0)
    may_raise = "import os; os.nice(1); os.nice(-1)"
    refused = subprocess.run([sys.executable, "-c", may_raise], capture_output=True).returncode
    with running_monitor(tmp_path) as monitor:
        pid = monitor.process.pid

        def scheduling() -> set[tuple[int, int]]:
            """Of the threads that there are now."""
            found = set()
            for task in Path(f"/proc/{pid}/task").iterdir():
                thread = int(task.name)
                with suppress(ProcessLookupError):  # it has ended meanwhile
                    niceness = os.getpriority(os.PRIO_PROCESS, thread)
                    found.add((os.sched_getscheduler(thread), niceness))
            return found

        wait_for(lambda: scheduling() == {(os.SCHED_BATCH, own + 5)})
        (tmp_path / "rules.yaml").write_text(STOPPING)
        wait_for(lambda: scheduling() == {(os.SCHED_OTHER, own + 5 if refused else own)})


class System:
    """Records what is asked of it, and refuses what the kernel would."""

    def __init__(self, ended: int = -1, lowest: int = -100) -> None:
        self.niceness: dict[int, int] = {}
        self._ended = ended
        self._lowest = lowest

    def setpriority(self, _: int, thread: int, niceness: int) -> None:
        if thread == self._ended:
            raise ProcessLookupError
        if niceness < self._lowest:
            raise PermissionError
        self.niceness[thread] = niceness


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    def install(system: System) -> None:
        monkeypatch.setattr(process, "_threads", lambda: [1, 2, 3])
        monkeypatch.setattr(os, "getpriority", lambda *_: 0)
        monkeypatch.setattr(os, "setpriority", system.setpriority)
        monkeypatch.setattr(os, "sched_setscheduler", lambda *_: None)

    return install


def test_a_thread_that_ends_meanwhile_leaves_no_other_at_the_old_priority(pretend):
    system = System(ended=1)
    pretend(system)
    Priority().suit(can_stop=False)
    assert system.niceness == {2: 5, 3: 5}


def test_a_priority_that_may_not_be_raised_is_said_once(pretend, capsys):
    pretend(System(lowest=5))
    priority = Priority()
    for can_stop in (False, True, True):
        priority.suit(can_stop)
    assert capsys.readouterr().err.count("priority_stays_low") == 1
