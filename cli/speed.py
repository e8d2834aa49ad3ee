"""How fast it is: `jointrt bench`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app
from .options import Branches, Device, Interval, Weights, Windows, names_in, record_of


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
    windows: Windows = None,
    share: Annotated[
        str, typer.Option(metavar="exact|frame,...", help="What objects share; see `jointrt run`.")
    ] = "exact",
    throughput: Annotated[
        bool,
        typer.Option(
            "--throughput",
            help="Time many clips through several processes instead; the best is what `jointrt batch` takes.",
        ),
    ] = False,
    processes: Annotated[
        str | None,
        typer.Option(
            help="With --throughput: processes and threads to try.",
            metavar="PxT,PxT,...",
            show_default="all cores shared out in several ways",
        ),
    ] = None,
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
    from ..errors import SettingsError

    if throughput:
        _throughput(locals())
        return
    if processes is not None:
        raise SettingsError("--processes is given without --throughput: leave it out, or give both")
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
        share=names_in(share),
        source=source or CLIP,
    )
    run_and_report(request, record_of(Outputs, locals()))


def _throughput(typed: Mapping[str, Any]) -> None:
    """`jointrt bench --throughput`, from the command's parameters."""
    from ..benchmarks.speed.clip import CLIP
    from ..benchmarks.speed.processes import ThroughputRequest
    from ..benchmarks.speed.report.throughput import run_throughput
    from ..errors import SettingsError
    from ..runtime.worker_shape import WorkerShape

    others = ("crop", "threads", "plots", "html", "against", "reference", "weights", "clips", "windows")
    if unread := [name for name in others if typed[name]] + ["share"] * (typed["share"] != "exact"):
        raise SettingsError(f"--{unread[0]} is not for --throughput: leave it out, or bench without --throughput")

    def one(name: str) -> int | None:
        text = typed[name]
        if text is not None and not text.isdecimal():
            raise SettingsError(f"{name} is {text!r}: expected one whole number with --throughput")
        return None if text is None else int(text)

    bundles = typed["bundles"] or [None]
    if len(bundles) > 1 or "," in typed["backend"]:
        raise SettingsError("several bundles or backends with --throughput: expected one of each")
    request = ThroughputRequest(
        bundle=bundles[0],
        shapes=tuple(WorkerShape.read(text) for text in names_in(typed["processes"])),
        objects=one("objects") or 1,
        source=typed["source"] or CLIP,
        mask=typed["mask"],
        memory=one("memory"),
        interval=typed["interval"],
        branches=typed["branches"],
        device=typed["device"],
        backend=typed["backend"],
    )
    run_throughput(request, typed["json"])
