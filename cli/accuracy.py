"""How good the masks are: `jointrt eval` and `jointrt compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app, print_error
from .options import (
    Backend,
    Branches,
    Device,
    Interval,
    Memory,
    MinArea,
    ScoreResize,
    Sequences,
    Share,
    Weights,
    Windows,
    names_in,
    record_of,
)


@app.command("eval")
def evaluate(
    root: Annotated[Path, typer.Argument(help="A DAVIS 2016, DAVIS 2017 or YouTube-VOS folder.")],
    bundle: Annotated[
        str | None, typer.Option(help="Name or folder of the bundle to evaluate.", show_default="lite")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Evaluate masks made elsewhere, DIR/SEQUENCE/FRAME.png.", metavar="DIR")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Evaluate a baseline without a network.", metavar="first-mask|flow")
    ] = None,
    sequences: Sequences = None,
    layout: Annotated[str, typer.Option(metavar="auto|davis|youtube", help="How ROOT is laid out.")] = "auto",
    split: Annotated[
        str | None, typer.Option(help="DAVIS: a list under ROOT/ImageSets.", metavar="NAME", show_default="val")
    ] = None,
    single_object: Annotated[
        bool, typer.Option("--single-object", help="DAVIS: take all objects as one, as DAVIS 2016 does.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the masks; for YouTube-VOS submission.zip too.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the figures here.", metavar="FILE")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with figures and the worst frames here.", metavar="FILE")
    ] = None,
    memory: Memory = None,
    interval: Interval = None,
    branches: Branches = "both",
    score_resize: ScoreResize = "given",
    min_area: MinArea = None,
    windows: Windows = None,
    share: Share = "exact",
    device: Device = "cpu",
    backend: Backend = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Cores for all processes.", show_default="all that the process may use")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(help="Sequences at a time.", show_default="by the number of cores")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the masks that OUT holds.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the complete sequences that OUT holds.")] = False,
    corrections: Annotated[
        int | None,
        typer.Option(
            help="Correct the worst frame of every sequence, N times, and show J&F by the number of corrected frames.",
            metavar="N",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Score a bundle, a folder of masks or a baseline on a benchmark: J and F per object, as the DAVIS tool counts."""
    if corrections is not None:
        _evaluate_corrections(locals())
        return
    from rich.console import Console

    from ..benchmarks.accuracy.evaluate import EvaluationRequest
    from ..benchmarks.accuracy.evaluate import evaluate as run_evaluation
    from ..benchmarks.accuracy.scores import as_table
    from ..runtime.job.console import RunDisplay

    request = record_of(EvaluationRequest, locals(), sequences=names_in(sequences))
    with RunDisplay("evaluating") as display:
        try:
            evaluation = run_evaluation(request, display)
        except KeyboardInterrupt:
            display.note("interrupted" + ("; --resume keeps the complete sequences" if out is not None else ""))
            sys.exit(130)
    if evaluation.scores:
        console = Console()
        console.width = max(console.width, 120)
        console.print(as_table(evaluation.scores, evaluation.facts["masks"]))
    if evaluation.submission is not None:
        typer.echo(f"to hand in: {evaluation.submission}")
    if evaluation.left_out:
        print_error(f"{len(evaluation.left_out)} sequences were left out: {', '.join(evaluation.left_out)}")
        sys.exit(1)


def _evaluate_corrections(typed: dict[str, Any]) -> None:
    """`jointrt eval --corrections`, from the command's parameters by name."""
    from rich.console import Console

    from ..benchmarks.accuracy.corrections import CorrectionRequest, as_table, evaluate_corrections
    from ..errors import SettingsError
    from ..runtime.job.console import RunDisplay

    others = ("results", "baseline", "out", "html", "processes", "overwrite", "resume")
    if given := [f"--{name}" for name in others if typed[name]]:
        raise SettingsError(f"--corrections and {' and '.join(given)} are given: corrections go without; leave it out")
    request = record_of(CorrectionRequest, typed, sequences=names_in(typed["sequences"]))
    with RunDisplay("evaluating") as display:
        try:
            results = evaluate_corrections(request, display)
        except KeyboardInterrupt:
            display.note("interrupted")
            sys.exit(130)
    console = Console()
    console.width = max(console.width, 120)
    console.print(as_table(results, request.corrections, f"corrections, {request.bundle or 'lite'}"))


@app.command()
def compare(
    bundle: Annotated[str, typer.Argument(help="Name of the bundle to test, or its folder.")],
    backend: Annotated[
        str, typer.Option(help="What runs it on the CPU; see `jointrt run --help`.", metavar="NAME[:PRECISION]")
    ] = "auto",
    baseline: Annotated[
        str | None, typer.Option(help="Another bundle to compare with.", show_default="its PyTorch network")
    ] = None,
    weights: Weights = None,
    clips: Annotated[
        list[Path] | None,
        typer.Option(help="A clip with its mask beside it, NAME.png; may be repeated.", show_default="the shipped one"),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A DAVIS or YouTube-VOS folder: J&F of both sides.")] = None,
    sequences: Annotated[str | None, typer.Option(help="Only these of --data.", metavar="A,B,...")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of each at most.", show_default="all")] = None,
    memory: Annotated[int | None, typer.Option(help="Frames kept per object.", show_default="the bundles'")] = None,
    interval: Annotated[
        int | None, typer.Option(help="Frames between memory updates.", show_default="the bundles'")
    ] = None,
    curve: Annotated[Path | None, typer.Option(help="Draw the IoU by frame here.", metavar="FILE.png")] = None,
    min_iou: Annotated[
        float | None, typer.Option(help="Floor of a clip's mean IoU.", show_default="0.995; 0.9 if not fp32")
    ] = None,
    max_loss: Annotated[float, typer.Option(help="Largest loss of J&F.")] = 0.01,
    max_error: Annotated[
        float | None, typer.Option(help="Largest relative error of a graph.", show_default="1e-4; none if not fp32")
    ] = None,
) -> None:
    """Compare a bundle with its PyTorch network or another bundle on the same clips; exit code 1 when over a limit."""
    from rich.console import Console

    from ..benchmarks.accuracy.compare import CompareRequest, as_tables
    from ..benchmarks.accuracy.compare import compare as run_comparison
    from ..runtime.job.console import RunDisplay

    request = record_of(CompareRequest, locals(), clips=tuple(clips or ()), root=data, sequences=names_in(sequences))
    with RunDisplay("comparing") as display:
        comparison = run_comparison(request, display)
    console = Console()
    for table in as_tables(comparison):
        console.print(table)
    for line in comparison.failures:
        print_error(line)
    typer.echo("verdict: " + ("over the limits" if comparison.failures else "within the limits"))
    sys.exit(1 if comparison.failures else 0)
