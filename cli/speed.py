"""How fast it is: `jointrt bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import Branches, Device, Interval, Weights, record_of


@app.command()
def bench(
    bundles: Annotated[
        list[str] | None,
        typer.Option("--bundle", help="Name or folder of a bundle; may be given several times.", show_default="lite"),
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Frames kept per object.", metavar="N,N,...", show_default="the bundle's")
    ] = None,
    objects: Annotated[str, typer.Option(help="Objects to follow; parts of the mask's.", metavar="N,N,...")] = "1",
    crop: Annotated[
        str | None,
        typer.Option(help="Trace the network for these crops.", metavar="HxW,...", show_default="the bundle's"),
    ] = None,
    threads: Annotated[
        str | None,
        typer.Option(help="Cores to use.", metavar="N,N,...", show_default="all that the process may use"),
    ] = None,
    interval: Interval = None,
    branches: Branches = "both",
    source: Annotated[
        Path | None, typer.Option(help="Clip to take frames from.", show_default="the shipped one")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Its first mask.", show_default="named like the clip, .png")] = None,
    periods: Annotated[int, typer.Option(min=3, help="Update periods to time.")] = 6,
    device: Device = "cpu",
    backend: Annotated[
        str, typer.Option(help="What runs the engines; see `jointrt run --help`.", metavar="NAME,NAME,...")
    ] = "auto",
    reference: Annotated[
        bool, typer.Option("--reference", help="Time the first bundle's PyTorch network, as released, as well.")
    ] = False,
    weights: Weights = None,
    clips: Annotated[int, typer.Option(min=0, help="Run the whole clip N times as well.", metavar="N")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.", metavar="FILE")] = None,
    plots: Annotated[Path | None, typer.Option(help="Write pictures here.", metavar="DIR")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with tables and pictures here.", metavar="FILE")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this file of an earlier --json.", metavar="OLD.json")
    ] = None,
) -> None:
    """Time bundles stage by stage over whole update periods at a full memory; what has several values is swept."""
    from ..benchmarks.speed.bench import BenchRequest, whole_numbers
    from ..benchmarks.speed.clip import CLIP
    from ..benchmarks.speed.report.report import Outputs, run_and_report

    if crop is not None:
        from ..export.build.bundle import check_crop, parse_crop
    request = record_of(
        BenchRequest,
        locals(),
        bundles=tuple(bundles or ["lite"]),
        backends=tuple(name.strip() for name in backend.split(",")),
        crops=() if crop is None else tuple(check_crop(parse_crop(text.strip())) for text in crop.split(",")),
        memory=whole_numbers("memory", memory),
        threads=whole_numbers("threads", threads),
        objects=whole_numbers("objects", objects),
        source=source or CLIP,
    )
    run_and_report(request, record_of(Outputs, locals()))
