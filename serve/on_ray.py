"""Streams where one machine is not enough: copies of the application behind Ray Serve.

Ray Serve's proxy on each machine listens; a WebSocket stays with the copy that answered first, so a stream has one
segmenter as it has on one machine. Figures of `/metrics` are those of the copy that answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import DependencyError, DeviceError, SettingsError
from ..fleet.cluster import ray_cluster
from .limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .access import StreamAccess

MOST_MESSAGE = 16 << 20
"""Bytes of the largest message that Ray Serve's proxy takes."""
OTHER_REQUESTS = 2
"""Requests beside the streams that one copy answers at a time: for health and figures."""


def serve_on_ray(
    limits: Limits,
    host: str,
    port: int,
    *,
    copies: int,
    address: str | None,
    token: str | None,
    origins: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C; says address and token once clients may come.

    Args:
        copies: of the application, each with `limits.sessions` sessions.
        address: of a Ray cluster; None starts one on this machine, and stops it.
        token: none makes one where others than this machine can come.

    Raises:
        DependencyError: Ray Serve is not installed.
        DeviceError: no cluster answers, or it has no room for so many copies.
        JointError: see `server.serve`.
    """
    try:
        from .access import access_for
        from .server import told
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed: pip install 'jointrt[serve]'") from None
    access = access_for(host, token, origins)
    with streams_on_ray(limits, access, host, port, copies=copies, address=address):
        say(told(host, port, access.token))
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


@contextmanager
def streams_on_ray(
    limits: Limits, access: StreamAccess, host: str, port: int, *, copies: int, address: str | None = None
) -> Iterator[None]:
    """Serve while the block lasts; errors as of `serve_on_ray`."""
    if limits.message_bytes > MOST_MESSAGE:
        raise SettingsError(
            f"pixels is {limits.pixels}: expected at most {MOST_MESSAGE // 4 - (1 << 14)}, what Ray Serve's proxy takes"
        )

    def build() -> FastAPI:
        from .app import create_app

        return create_app(limits, access)

    # Refuses here, once and in one line, what each copy would refuse.
    build()
    threads = limits.options.threads or 1
    cores = threads * limits.sessions
    resources = {"num_cpus": cores, "num_gpus": int(limits.options.device != "cpu")}
    with ray_cluster(address, cores * copies, extra="serve-fleet") as ray:
        try:
            from ray import serve
        except ImportError as error:
            raise DependencyError(f"{error.name} is not installed: pip install 'jointrt[serve-fleet]'") from None
        if ray.cluster_resources().get("CPU", 0) < cores * copies:
            raise DeviceError(
                f"the cluster has {ray.cluster_resources().get('CPU', 0):.0f} cores: expected {cores * copies} for "
                f"{copies} copies of {limits.sessions} sessions of {threads}; fewer --copies or --sessions"
            )
        try:
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
            deployment = serve.deployment(
                num_replicas=copies,
                ray_actor_options=resources,
                max_ongoing_requests=limits.sessions + OTHER_REQUESTS,
            )(serve.ingress(build)())
            serve.run(deployment.bind(), name="jointrt")
            yield
        finally:
            serve.shutdown()
