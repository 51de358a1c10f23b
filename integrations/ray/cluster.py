"""A Ray cluster: one that is there, or one on this machine for as long as a command runs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
from collections.abc import Iterator

import ray

from saeguard.integrations.ray.attempts import WorkerError
from saeguard.monitor.errors import ConfigError

_PATIENCE_S = 10.0


@contextlib.contextmanager
def connected(address: str | None, num_cpus: int, num_gpus: int) -> Iterator[str]:
    """Be connected with it.

    Args:
        address: `host:port`; None for one of our own, without a dashboard.
        num_cpus: that one of our own is to have.
        num_gpus: likewise.

    Yields:
        Where its logs are. Those of one of our own stay there only after a `WorkerError`.

    Raises:
        ConfigError: there is none at the address, or ours did not start.
    """
    if address:
        _check_address(address)
    own = None if address else tempfile.mkdtemp(prefix="sg-ray-")  # short: sockets are below it
    try:
        if own:
            ray.init(
                address="local", include_dashboard=False, log_to_driver=False,
                num_cpus=num_cpus, num_gpus=num_gpus or None, _temp_dir=own,
            )  # fmt: skip
        else:
            ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        what = f"no Ray at {address}" if address else "no Ray cluster could be started"
        remedy = f"its logs may say why: {own}" if own else ""
        raise ConfigError(f"{what}: {error.__cause__ or error}", remedy) from error
    are_wanted = False
    try:
        yield own or "on its machines, where its temporary folder is"
    except WorkerError:
        are_wanted = True
        raise
    finally:
        ray.shutdown()
        if own and not are_wanted:
            shutil.rmtree(own, ignore_errors=True)


def _check_address(address: str) -> None:
    """Ray itself would try for ever."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in address:
        raise ConfigError(f"--ray-address: {address!r} is not HOST:PORT")
    try:
        socket.create_connection((host, int(port)), _PATIENCE_S).close()
    except OSError as error:
        raise ConfigError(f"no Ray at {address}: {error.strerror or error}") from error
