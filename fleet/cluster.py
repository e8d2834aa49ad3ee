"""Ray: a cluster that is joined, or one of this machine alone that is started and stopped."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import DependencyError, DeviceError

PORT = 6379
"""Where the head of a cluster listens, unless its address says otherwise."""
ANSWER_SECONDS = 10.0
"""How long a head's answer is waited for."""


@contextmanager
def ray_cluster(address: str | None, cores: int, *, extra: str = "fleet") -> Iterator[Any]:
    """The module `ray`, connected while the block lasts.

    Args:
        address: `auto` for the cluster that runs on this machine; HOST, HOST:PORT or ray://HOST:PORT of a head; None
            for one that is started on this machine, whatever runs there already, and stopped.
        cores: of that one.
        extra: of this package, that brings Ray.

    Raises:
        DependencyError: Ray is not installed.
        DeviceError: nothing answers there, or Ray does not start.
    """
    # Ray reads it as it is loaded, and reports usage where it is not set.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is not None:
        address = _answering(address)
    try:
        import ray
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed: pip install 'jointrt[{extra}]'") from None
    try:
        if address is None:
            ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        # Ray has no class of its own for a node that does not come up.
        if address is None:
            raise DeviceError(f"Ray does not start on this machine: {first_line(error)}") from None
        token = "" if os.environ.get("RAY_AUTH_MODE") else "; if the cluster asks for a token, set RAY_AUTH_MODE=token"
        raise DeviceError(f"no Ray cluster answers at {address}: {first_line(error)}{token}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def first_line(error: Exception) -> str:
    """What went wrong, without Ray's stack of the other process."""
    return str(error).strip().partition("\n")[0]


def _answering(address: str) -> str:
    """An address as Ray takes it, at which somebody listens: Ray itself would try for minutes."""
    if address == "auto":
        return address
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host:
        host, port = port, str(PORT)
        address += f":{PORT}"
    if not port.isdecimal() or not host:
        raise DeviceError(f"{address} is no address of a Ray cluster: expected auto, HOST or HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DeviceError(f"no Ray cluster answers at {address}: {error}") from None
    return address
