"""Live streams for other programs: `jointrt serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app
from .options import Backend, Device


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; others than loopback need the token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8765,
    bundles: Annotated[
        list[str] | None,
        typer.Option("--bundle", help="Bundle that clients may name; may be repeated.", show_default="lite-int8"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores of each session.")] = 1,
    device: Device = "cpu",
    backend: Backend = "auto",
    sessions: Annotated[int, typer.Option(min=1, help="Streams at a time.")] = 4,
    objects: Annotated[int, typer.Option(min=1, max=255, help="Objects that one stream may follow.")] = 16,
    pixels: Annotated[int, typer.Option(min=1, help="Largest frame.")] = 1920 * 1088,
    rate: Annotated[float, typer.Option(min=0.1, help="Frames per second read from one client.")] = 120.0,
    idle: Annotated[float, typer.Option(min=0.1, help="Seconds without a frame that end a session.")] = 60.0,
    longest: Annotated[float, typer.Option(min=0.1, help="Seconds that end any session.")] = 3600.0,
    copies: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Serve behind Ray Serve, on one machine or many: so many copies, each of --sessions.",
            show_default="without Ray",
        ),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="auto|HOST[:PORT]", help="With --copies: the Ray cluster to join.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(envvar="JOINTRT_TOKEN", help="What clients send.", show_default="made; none on loopback"),
    ] = None,
    origins: Annotated[
        list[str] | None, typer.Option("--origin", help="Page that may open streams.", metavar="https://HOST")
    ] = None,
) -> None:
    """Segment live streams: a WebSocket each, frames in, label maps out; see examples/live_client.py."""
    from ..errors import SettingsError
    from ..runtime.backends import default_bundle
    from ..runtime.settings import Options
    from ..serve.limits import Limits
    from ..serve.server import serve as serve_streams

    limits = Limits(
        bundles=tuple(bundles or [default_bundle(backend, device)]),
        options=Options(threads=threads, device=device, backend=backend),
        sessions=sessions,
        objects=objects,
        pixels=pixels,
        rate=rate,
        idle=idle,
        longest=longest,
    )
    allowed = tuple(origins or ())
    if copies is None:
        if address is not None:
            raise SettingsError("--address is given without --copies: give both, or leave it out")
        serve_streams(limits, host, port, token=token, origins=allowed, say=typer.echo)
        return
    from ..serve.on_ray import serve_on_ray

    serve_on_ray(limits, host, port, copies=copies, address=address, token=token, origins=allowed, say=typer.echo)
