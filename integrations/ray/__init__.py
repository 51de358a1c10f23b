"""Work on shards with Ray Data: on the cores of one machine, or on many machines."""

from __future__ import annotations

import os
import secrets

from saeguard.monitor.shards import Runner

_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without a GPU of their own see all
}


def ray_runner(num_workers: int, address: str | None = None, gpus: float = 0.0) -> Runner:
    """What does work on shards on a cluster.

    Args:
        num_workers: processes at most.
        address: of a cluster that is there; without it one is started for each run, on the
            loopback interface.
        gpus: of each worker.

    Raises:
        ImportError: Ray is not installed.
    """
    # Ray reads them when it is imported.
    os.environ |= _VARIABLES if address else _VARIABLES | _own_cluster()
    from saeguard.integrations.ray.runner import RayRunner

    return RayRunner(num_workers, address, gpus)


def _own_cluster() -> dict[str, str]:
    """So that nobody else can join or use it."""
    # Without this Ray replaces 127.0.0.1 by the machine's address.
    found = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if "RAY_AUTH_MODE" not in os.environ:  # else Ray would leave a token in the home directory
        found |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return found
