"""Masks by clicks in the browser: `jointrt studio`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command()
def studio(
    video: Annotated[Path | None, typer.Argument(help="A film or a folder of images.", show_default=False)] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Films, uploads and projects stay under it.", show_default="the film's, or this folder"),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Make masks by clicks, track and correct them, in a page that only this machine can open."""
    from ..studio.server.serve import serve

    serve(video, folder, port, open_browser=browser, say=typer.echo)
