"""Of requests that nobody has a reason to look at, a share is recorded where that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_monitor import QUIET, running_monitor, wait_for

from saeguard.monitor.store import list_requests

NUM_REQUESTS = 200


@pytest.mark.parametrize(("share", "low", "high"), [(0, 0, 0), (0.5, 60, 140), (1, 200, 200)])
def test_the_share_of_quiet_requests_is_recorded_and_is_the_same_in_every_run(
    tmp_path: Path, share: float, low: int, high: int
):
    found = []
    for run in ("first", "second"):
        directory = tmp_path / run
        directory.mkdir()
        with running_monitor(directory, record_share=share) as monitor:
            for i in range(NUM_REQUESTS):
                monitor.engine.start(f"r-{i}", [1, 2])
                monitor.engine.step({f"r-{i}": (0, [QUIET, QUIET])})
                monitor.engine.end(f"r-{i}", num_scheduled=2, num_output_tokens=1)
            wait_for(lambda: monitor.total("requests/finished") == NUM_REQUESTS)
            monitor.stop()
            found.append({record.req_id for record in list_requests(monitor.store, limit=1000)})
    assert low <= len(found[0]) <= high
    assert found[0] == found[1]
