"""From a video to masks: `jointrt run`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import (
    Backend,
    Backward,
    Beside,
    BoxText,
    Branches,
    Correct,
    Device,
    HardMask,
    Interval,
    Keep255,
    Memory,
    MinArea,
    On,
    ScoreResize,
    Share,
    Windows,
    record_of,
)


@app.command()
def run(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            help="A video file; a folder of images in natural order; or live: camera:0, rtsp://... and other addresses "
            "that FFmpeg opens, - for a stream on the standard input."
        ),
    ],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            help="The objects in the first frame, or in that of --start-mask: a palette, grey or black-and-white PNG; "
            "or a folder of PNGs named like frames, in which later ones add objects.",
            show_default="made from --box and --click",
        ),
    ] = None,
    box: BoxText = None,
    on: On = None,
    beside: Beside = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results.", show_default="out/NAME")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="Name of an installed bundle, or a bundle's folder.",
            show_default="lite-int8; else lite",
        ),
    ] = None,
    memory: Memory = None,
    interval: Interval = None,
    branches: Branches = "both",
    threads: Annotated[
        int | None, typer.Option(help="Cores for the inference.", show_default="all that the process may use")
    ] = None,
    score_resize: ScoreResize = "given",
    windows: Windows = None,
    share: Share = "exact",
    device: Device = "cpu",
    backend: Backend = "auto",
    min_area: MinArea = None,
    correct: Correct = False,
    backward: Backward = False,
    start_mask: Annotated[
        int | None,
        typer.Option(
            help="The frame that the mask, the box or the clicks belong to; from it backwards and forwards.",
            metavar="FRAME",
            show_default="the first",
        ),
    ] = None,
    hard_mask: HardMask = False,
    keep_255: Keep255 = False,
    every: Annotated[int, typer.Option(help="Segment every K-th frame only.", metavar="K")] = 1,
    start: Annotated[int, typer.Option(help="First frame, counted from 0.", metavar="FRAME")] = 0,
    end: Annotated[
        int | None, typer.Option(help="First frame not to segment.", metavar="FRAME", show_default="all frames")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with an interrupted run; after a kill from the state that is stored every 100 frames.",
        ),
    ] = False,
    overlay: Annotated[bool, typer.Option(help="Write OUT/overlay.mp4.")] = True,
    show: Annotated[bool, typer.Option("--show", help="Show the overlay in a window; q closes it and ends.")] = False,
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Of a live source: segment every frame, however far behind.")
    ] = False,
) -> None:
    """Segment a video: OUT/masks/ gets one palette PNG per frame, OUT/overlay.mp4 shows them.

    The objects come from --mask; or one of them is shown by --box, --click and --not in the first frame, or in that of
    --start-mask.
    """
    from ..errors import SettingsError, VideoError
    from ..runtime.backends import default_bundle
    from ..runtime.job.console import RunDisplay, summary
    from ..runtime.job.run import Loaded, Request, load_segmenter, segment_video
    from ..runtime.settings import Options
    from ..runtime.video.live import LiveSource, is_live, live_name, open_live

    shown = bool(box or on or beside)
    if shown == (mask is not None):
        found = "both --mask and clicks or a box" if shown else "neither"
        raise SettingsError(f"{found}: expected --mask, or --box and --click for an object in the first frame")
    bundle = bundle or default_bundle(backend, device)
    if shown:
        from ..runtime.clicks import ClickSegmenter
        from ..runtime.clicks.job import Prompt, first_mask, read_frame

        prompt, clicker = Prompt.read(box, on or (), beside or ()), ClickSegmenter.load(threads=threads)
    loaded: Loaded | None = None
    opened: Path | LiveSource = Path(source)
    if is_live(source):
        # All is loaded before: the mask's frame is to be as new as the next one.
        loaded = load_segmenter(bundle, record_of(Options, locals()))
        opened = open_live(source, keep_all=keep_all)
    elif keep_all:
        raise SettingsError(f"--keep-all is for live sources, and {source} is none: all its frames are kept")
    if shown:
        shown_in = start if start_mask is None else start_mask
        image = opened.peek(shown_in) if isinstance(opened, LiveSource) else read_frame(opened, shown_in)
        mask = context.with_resource(first_mask(image, prompt, clicker))
    name = live_name(source) if isinstance(opened, LiveSource) else opened.stem
    request = record_of(Request, locals(), source=opened, out=out or Path("out") / name, resumable=True)
    with RunDisplay() as display:
        outcome = segment_video(request, display, loaded)
    if outcome.frames:
        typer.echo(summary(outcome, request))
    for file in outcome.unused:
        display.note(f"not used: {file}, whose frame is not there")
    if outcome.interrupted:
        again = shlex.join(["jointrt", *(a for a in sys.argv[1:] if a not in ("--overwrite", "--resume")), "--resume"])
        display.note(f"interrupted; go on with: {again}" if outcome.frames else "interrupted; nothing was written")
        sys.exit(130)
    if outcome.damage is not None:
        raise VideoError(f"{outcome.damage}; what could be read was segmented")
