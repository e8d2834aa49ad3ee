"""Serving streams from one process."""

from __future__ import annotations

import socket
from collections.abc import Callable

from ..errors import DependencyError, OutputError
from .limits import Limits

MESSAGES_AHEAD = 2
"""Messages that the library may hold for a stream that does not take them."""


def serve(
    limits: Limits,
    host: str,
    port: int,
    *,
    token: str | None,
    origins: tuple[str, ...],
    say: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C; says address and token once clients may come.

    Args:
        token: none makes one where others than this machine can come.

    Raises:
        DependencyError: FastAPI or another library of the extra is not installed.
        JointError: a bundle or an option cannot be used.
        OutputError: the port is taken.
    """
    try:
        import uvicorn

        from .access import access_for
        from .app import create_app
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed: pip install 'jointrt[serve]'") from None
    access = access_for(host, token, origins)
    app = create_app(limits, access)
    listener = _listener(host, port)
    say(told(host, listener.getsockname()[1], access.token))
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws_max_size=limits.message_bytes,
        ws_max_queue=MESSAGES_AHEAD,
        ws_ping_timeout=limits.idle,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])


def told(host: str, port: int, token: str) -> str:
    """Where clients may come, and with what."""
    place = f"[{host}]" if ":" in host else host
    return f"jointrt serve: ws://{place}:{port}/stream{f'  token {token}' if token else ''}"


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(64)
    except OSError as error:
        raise OutputError(
            f"{host} port {port} cannot be used: {error.strerror or error}; choose others with --host and --port"
        ) from None
    return listener
