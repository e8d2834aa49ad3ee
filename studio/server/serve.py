"""Serving the studio on loopback."""

from __future__ import annotations

import os
import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path

from ...errors import DependencyError, OutputError, SettingsError

HOST = "127.0.0.1"


def serve(
    video: Path | None, folder: Path | None, port: int, *, open_browser: bool, say: Callable[[str], None]
) -> None:
    """Serve until Ctrl-C; says the link once the page can be opened.

    Raises:
        DependencyError: FastAPI or uvicorn is not installed.
        JointError: the film cannot be opened, or does not lie under the folder.
        OutputError: the port is taken.
    """
    try:
        import uvicorn

        from .access import Access
        from .app import create_app
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed: pip install 'jointrt[studio]'") from None
    root = (folder or (video.parent if video is not None else Path.cwd())).resolve()
    if not root.is_dir():
        raise SettingsError(f"{root} is no folder: expected one that holds films")
    name = None
    if video is not None:
        if not video.resolve().is_relative_to(root):
            raise SettingsError(f"{video} does not lie under {root}: give its folder with --folder")
        name = str(video.resolve().relative_to(root))
    access = Access()
    app = create_app(root, access, name)
    listener = socket.socket()
    if os.name == "posix":  # Connections of a server that was killed keep its port for a minute otherwise.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as error:
        raise OutputError(
            f"port {port} cannot be used: {error.strerror or error}; choose another with --port"
        ) from None
    link = access.link(HOST, listener.getsockname()[1])
    say(f"jointrt studio: {link}")
    if open_browser:
        webbrowser.open(link)
    config = uvicorn.Config(app, log_level="warning", ws_max_size=4 << 20, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
