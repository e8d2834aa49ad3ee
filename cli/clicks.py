"""Masks of objects that are shown by a box or clicks: `jointrt mask` and `jointrt eval-clicks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import Beside, BoxText, On, Sequences, names_in, record_of

ClickBackend = Annotated[
    str, typer.Option(metavar="auto|onnxruntime|openvino", help="What runs the network on the CPU.")
]
ClickBundle = Annotated[str, typer.Option(help="Name of an installed bundle for clicks, or its folder.")]
Threads = Annotated[int | None, typer.Option(help="Cores to use.", show_default="all that the process may use")]


@app.command()
def mask(
    source: Annotated[Path, typer.Argument(help="An image, a video, or a folder of images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The mask, a palette PNG.", metavar="FILE.png")],
    box: BoxText = None,
    on: On = None,
    beside: Beside = None,
    frame: Annotated[int, typer.Option(help="Number of the frame, counted from 0.", metavar="K")] = 0,
    object_id: Annotated[int, typer.Option("--id", help="The object's value in the mask, 1 to 255.")] = 1,
    add: Annotated[
        bool, typer.Option("--add", help="Keep the other objects that OUT holds, and mend what it holds of this one.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    bundle: ClickBundle = "clicks",
    backend: ClickBackend = "auto",
    threads: Threads = None,
) -> None:
    """Make the mask of an object that a box or clicks show, for `jointrt run --mask`."""
    from ..runtime.clicks.job import MaskRequest, Prompt, make_mask

    request = record_of(MaskRequest, locals(), prompt=Prompt.read(box, on or (), beside or ()))
    labels = make_mask(request)
    share = float((labels == object_id).mean())
    typer.echo(f"object {object_id}, {100 * share:.1f} % of the picture: {out}")


@app.command("eval-clicks")
def evaluate_clicks(
    root: Annotated[Path, typer.Argument(help="A DAVIS 2016 or 2017 folder.")],
    bundle: ClickBundle = "clicks",
    sequences: Sequences = None,
    split: Annotated[
        str | None, typer.Option(help="A list under ROOT/ImageSets.", metavar="NAME", show_default="val")
    ] = None,
    single_object: Annotated[
        bool, typer.Option("--single-object", help="Take all objects as one, as DAVIS 2016 does.")
    ] = False,
    every: Annotated[int, typer.Option(help="Click in every K-th frame only.", metavar="K")] = 10,
    grabcut: Annotated[bool, typer.Option(help="Let GrabCut segment the same boxes.")] = True,
    csv: Annotated[Path | None, typer.Option(help="Write every curve here.", metavar="FILE")] = None,
    backend: ClickBackend = "auto",
    threads: Threads = None,
) -> None:
    """Count the clicks that masks take (NoC), simulated in the middle of the largest error; GrabCut beside."""
    from rich.console import Console

    from ..benchmarks.accuracy.clicks import ClickEvaluationRequest, as_csv, as_table
    from ..benchmarks.accuracy.clicks import evaluate_clicks as run_evaluation
    from ..files import replace_file
    from ..runtime.job.console import RunDisplay

    request = record_of(ClickEvaluationRequest, locals(), sequences=names_in(sequences))
    with RunDisplay("clicking") as display:
        results = run_evaluation(request, display)
    console = Console()
    console.width = max(console.width, 200)
    console.print(as_table(results, f"{bundle}, every {every}th frame"))
    if csv is not None:
        replace_file(csv, as_csv(results).encode())
