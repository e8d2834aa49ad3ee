"""Many videos: `jointrt batch`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import (
    Backend,
    Backward,
    Branches,
    Correct,
    Device,
    HardMask,
    Interval,
    Keep255,
    Memory,
    MinArea,
    ScoreResize,
    Share,
    Windows,
    record_of,
)


@app.command()
def batch(
    inputs: Annotated[
        str,
        typer.Argument(help="A table (.csv, .jsonl, .parquet) of video, mask, ...; or DAVIS or YouTube-VOS."),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL for the results.")],
    bundle: Annotated[str | None, typer.Option(help="Bundle.", show_default="lite-int8; lite on a GPU")] = None,
    memory: Memory = None,
    interval: Interval = None,
    branches: Branches = "both",
    threads: Annotated[
        int | None,
        typer.Option(help="Cores of each worker.", min=1, show_default="as `jointrt bench --throughput` found best; 1"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes.", min=1, show_default="as found best; all there is room for")
    ] = None,
    score_resize: ScoreResize = "given",
    windows: Windows = None,
    share: Share = "exact",
    min_area: MinArea = None,
    correct: Correct = False,
    backward: Backward = False,
    hard_mask: HardMask = False,
    keep_255: Keep255 = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Write NAME/overlay.mp4 too.")] = False,
    videos: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="On a GPU: videos of one frame size that share a worker's batch; 8 brought 2.1 times the frames/s of "
            "one with the paper's network on an H200.",
        ),
    ] = 1,
    device: Device = "cpu",
    backend: Backend = "auto",
    address: Annotated[
        str | None, typer.Option(metavar="auto|HOST[:PORT]", help="Ray cluster to join; auto: this machine's.")
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="png|ffv1|rle", help="What masks are kept as.")] = "png",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Do what is missing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, count, and stop.")] = False,
) -> None:
    """Segment many videos: OUT/NAME/masks/ for each, OUT/report.html and report.jsonl for all."""
    from ..errors import SettingsError
    from ..fleet.batch import check_batch, run_batch
    from ..fleet.progress import BatchDisplay
    from ..fleet.worker import Plan
    from ..runtime.backends import default_bundle
    from ..runtime.job.run import Request
    from ..runtime.settings import Options

    if overwrite and resume:
        raise SettingsError("both --overwrite and --resume are given: expected one of them")
    nowhere = Path()
    request = Request(
        source=nowhere,
        mask=nowhere,
        out=nowhere,
        bundle=bundle or default_bundle(backend, device),
        correct=correct,
        backward=backward,
        hard_mask=hard_mask,
        keep_255=keep_255,
        overlay=overlay,
        **record_of(Options, locals()).options(),
    )
    plan = Plan(request, out, form, resume, videos)
    if dry_run:
        typer.echo(f"{len(check_batch(inputs, plan, overwrite=overwrite))} clips to {out} by {request.bundle}")
        return
    with BatchDisplay() as display:
        try:
            report = run_batch(inputs, plan, display, address=address, workers=workers, overwrite=overwrite)
        except KeyboardInterrupt:
            display.note("interrupted: clips that are done stay, --resume does the rest")
            sys.exit(130)
    counts = ", ".join(f"{number} {state}" for state, number in sorted(report.counts.items()))
    typer.echo(f"{counts}; {report.frames} frames: {out.rstrip('/')}/report.html")
    if report.counts["failed"]:
        sys.exit(1)
