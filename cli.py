"""The `jointrt` command. Libraries are imported inside the commands, so that help needs none of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from . import __version__
from .errors import JointError

app = typer.Typer(
    name="jointrt",
    help="Segment objects through videos with JOINT: from a first mask to a mask for every frame.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


EXTRAS = {
    "torch": "export",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "lightning_fabric": "train",
    "tensorboard": "train",
    "matplotlib": "bench",
}
"""Libraries that the base installation lacks, and the extra that brings each."""

Memory = Annotated[int | None, typer.Option(help="Frames kept per object.", show_default="the bundle's")]
Interval = Annotated[int | None, typer.Option(help="Frames between memory updates.", show_default="the bundle's")]
Branches = Annotated[str, typer.Option(metavar="both|transduction|induction", help="Branches to use.")]
ScoreResize = Annotated[
    str, typer.Option(metavar="given|ratio", help="How a crop's scores are resized into the frame.")
]
Device = Annotated[str, typer.Option(metavar="cpu|cuda", help="Device to run on.")]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME[:PRECISION]",
        help="What runs the engines: auto; on the CPU onnxruntime, openvino, or openvino:bf16, which changes masks a "
        "little; on a GPU tensorrt, torch, torch:fp32 or onnxruntime.",
    ),
]
Weights = Annotated[Path | None, typer.Option(help="The weights it was made from.", show_default="those in the bundle")]
"""Options of several commands."""


def main() -> None:
    """Run the command line; a `JointError` becomes one line on the error output and exit code 2."""
    try:
        app()
    except JointError as error:
        print_error(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in EXTRAS:
            raise
        print_error(f"{library} is not installed: install it with `pip install 'jointrt[{EXTRAS[library]}]'`")
        sys.exit(2)


def print_error(message: str) -> None:
    """One red line on the error output, never wrapped."""
    from rich.console import Console

    line = "error: " + " ".join(message.split())
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"jointrt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    source: Annotated[Path, typer.Argument(help="A video file, or a folder of images in natural order.")],
    mask: Annotated[
        Path,
        typer.Option(
            "--mask",
            help="The objects in the first frame: a palette, grey or black-and-white PNG; or a folder of PNGs named "
            "like frames, in which later ones add objects.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the results.", show_default="out/NAME")
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            help="Name of an installed bundle, or a bundle's folder.", show_default="lite-int8; lite on a GPU"
        ),
    ] = None,
    memory: Memory = None,
    interval: Interval = None,
    branches: Branches = "both",
    threads: Annotated[
        int | None, typer.Option(help="Cores for the inference.", show_default="all that the process may use")
    ] = None,
    score_resize: ScoreResize = "given",
    device: Device = "cpu",
    backend: Backend = "auto",
    every: Annotated[int, typer.Option(help="Segment every K-th frame only.", metavar="K")] = 1,
    start: Annotated[int, typer.Option(help="First frame, counted from 0.", metavar="FRAME")] = 0,
    end: Annotated[
        int | None, typer.Option(help="First frame not to segment.", metavar="FRAME", show_default="all frames")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overlay: Annotated[bool, typer.Option(help="Write OUT/overlay.mp4.")] = True,
) -> None:
    """Segment a video: OUT/masks/ gets one palette PNG per frame, OUT/overlay.mp4 shows them."""
    from .errors import VideoError
    from .runtime.bundle import default_bundle
    from .runtime.job.console import RunDisplay, summary
    from .runtime.job.run import Request, segment_video

    request = Request(
        source=source,
        mask=mask,
        out=out or Path("out") / source.stem,
        bundle=bundle or default_bundle(device),
        memory=memory,
        interval=interval,
        branches=branches,
        threads=threads,
        score_resize=score_resize,
        device=device,
        backend=backend,
        every=every,
        start=start,
        end=end,
        overwrite=overwrite,
        resume=resume,
        overlay=overlay,
    )
    with RunDisplay() as display:
        outcome = segment_video(request, display)
    if outcome.frames:
        typer.echo(summary(outcome, request))
    for file in outcome.unused:
        display.note(f"not used: {file}, whose frame is not there")
    if outcome.interrupted:
        again = shlex.join(["jointrt", *(a for a in sys.argv[1:] if a not in ("--overwrite", "--resume")), "--resume"])
        display.note(f"interrupted; go on with: {again}" if outcome.frames else "interrupted; nothing was written")
        sys.exit(130)
    if outcome.damage is not None:
        raise VideoError(f"{outcome.damage}; all of them were segmented")


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
    sequences: Annotated[
        str | None, typer.Option(help="Only these.", metavar="A,B,...", show_default="the data set's validation list")
    ] = None,
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
) -> None:
    """Score a bundle, a folder of masks or a baseline on a benchmark: J and F per object, as the DAVIS tool counts."""
    from rich.console import Console

    from .benchmarks.accuracy.evaluate import EvaluationRequest
    from .benchmarks.accuracy.evaluate import evaluate as run_evaluation
    from .benchmarks.accuracy.scores import as_table
    from .runtime.job.console import RunDisplay

    request = EvaluationRequest(
        root=root,
        bundle=bundle,
        results=results,
        baseline=baseline,
        sequences=tuple(name.strip() for name in sequences.split(",") if name.strip()) if sequences else (),
        layout=layout,
        split=split,
        single_object=single_object,
        out=out,
        csv=csv,
        html=html,
        memory=memory,
        interval=interval,
        branches=branches,
        score_resize=score_resize,
        device=device,
        backend=backend,
        threads=threads,
        processes=processes,
        overwrite=overwrite,
        resume=resume,
    )
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


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A released .pth.tar, or a plain state dict.")],
    destination: Annotated[Path, typer.Argument(help="The weights file to write, .safetensors.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Turn a released checkpoint into a weights file; nothing in the checkpoint is run."""
    from .export.checkpoint.released import import_checkpoint as convert

    count = convert(source, destination, overwrite=overwrite)
    typer.echo(f"{destination}: {count} tensors from {source}")


@app.command()
def export(
    weights: Annotated[Path, typer.Option(help="Weights file of import-checkpoint or train.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle's folder.")],
    crop: Annotated[
        str | None,
        typer.Option(help="Size of the crops in pixels.", metavar="HEIGHTxWIDTH", show_default="the model's"),
    ] = None,
    memory: Annotated[int, typer.Option(help="Frames kept per object, by default.")] = 20,
    interval: Annotated[int, typer.Option(help="Frames between memory updates, by default.")] = 5,
    max_objects: Annotated[int, typer.Option(help="Objects that one engine call may carry.")] = 8,
    include_weights: Annotated[
        bool, typer.Option("--weights-inside/--no-weights-inside", help="Keep the weights in the bundle.")
    ] = True,
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Round the weights to fp16: half the size, still computed in fp32.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Export a model to a bundle of ONNX graphs; ends in a comparison with the PyTorch network."""
    from rich.console import Console

    from .export.build.bundle import export_bundle, parse_crop
    from .export.parity.table import parity_table

    console = Console()
    with console.status("loading the weights") as status:
        made = export_bundle(
            weights,
            out,
            crop=None if crop is None else parse_crop(crop),
            memory=memory,
            interval=interval,
            max_objects=max_objects,
            include_weights=include_weights,
            half_weights=half_weights,
            overwrite=overwrite,
            progress=status.update,
        )
    assert made.manifest.parity is not None
    console.print(parity_table(made.manifest.parity))
    typer.echo(f"{made.folder}: {len(made.manifest.graphs)} graphs, opset {made.manifest.opset}")


@app.command()
def build(
    bundle: Annotated[str, typer.Argument(help="Name of an installed bundle of ONNX graphs, or its folder.")],
    backend: Annotated[
        str, typer.Option(metavar="tensorrt|tensorrt-rtx|onnxruntime", help="What the engines are for.")
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder.", show_default="NAME-BACKEND")] = None,
    target: Annotated[
        str | None,
        typer.Option(help="GPUs to build for; tensorrt-rtx only.", metavar="sm89,...", show_default="this machine's"),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="fp16|fp32|int8", help="fp16 keeps fp32 islands; int8, for TensorRT, is fp16 beside.")
    ] = "fp16",
    clips: Annotated[
        list[Path] | None,
        typer.Option(help="For int8: a clip to calibrate on, NAME.png beside it.", show_default="the shipped one"),
    ] = None,
    max_objects: Annotated[
        int | None, typer.Option(help="Objects that one call may carry.", show_default="the bundle's")
    ] = None,
    memory: Memory = None,
    weights: Weights = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Build engines for GPUs from a bundle; onnxruntime, and tensorrt-rtx with --target, need no GPU for that."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .errors import SettingsError
    from .export.build.onnxruntime import build_onnx_bundle
    from .export.build.tensorrt import BuildOptions, build_bundle, parse_targets
    from .export.parity.engines import why_not_here
    from .export.parity.table import parity_table
    from .runtime.bundle import Bundle

    if clips and precision != "int8":
        raise SettingsError(f"--clips calibrates int8, the precision is {precision}: leave it out, or --precision int8")
    opened = Bundle.open(bundle)
    defaults = opened.manifest.defaults
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    if backend == "onnxruntime":
        if target is not None or max_objects is not None:
            raise SettingsError("--target and --max-objects say nothing to ONNX Runtime: leave them out")
        with Progress(*columns) as progress:
            task = progress.add_task("building", total=None)
            made = build_onnx_bundle(
                opened,
                out or Path(f"{opened.folder.resolve().name}-{backend}"),
                precision=precision,
                memory=defaults.memory if memory is None else memory,
                weights=weights,
                overwrite=overwrite,
                progress=lambda step, done, total: progress.update(task, description=step, completed=done, total=total),
            )
        typer.echo(f"{made.folder}: {len(made.manifest.graphs)} graphs, {precision}; not yet compared on a GPU")
        return
    options = BuildOptions.check(
        backend=backend,
        precision=precision,
        targets=parse_targets(target),
        max_objects=defaults.max_objects if max_objects is None else max_objects,
        memory=defaults.memory if memory is None else memory,
    )
    with Progress(*columns) as progress:
        task = progress.add_task("building", total=None)
        made = build_bundle(
            opened,
            out or Path(f"{opened.folder.resolve().name}-{backend}"),
            options,
            weights=weights,
            clips=clips or (),
            overwrite=overwrite,
            progress=lambda step, done, total: progress.update(task, description=step, completed=done, total=total),
        )
    typer.echo(f"{made.folder}: {len(made.manifest.graphs)} engines, {precision}")
    if made.manifest.parity is None:
        typer.echo(f"not compared with the PyTorch network: {why_not_here(made.manifest)}")
    else:
        Console().print(parity_table(made.manifest.parity))


@app.command()
def verify(
    bundle: Annotated[str, typer.Argument(help="Name of an installed bundle, or a bundle's folder.")],
    weights: Weights = None,
) -> None:
    """Compare a bundle with the PyTorch network again, on this machine; exit code 1 when over a tolerance."""
    from rich.console import Console

    from .export.build.network import bundle_network
    from .export.parity.graphs import failures, measure
    from .export.parity.table import parity_table
    from .runtime.bundle import Bundle

    console = Console()
    opened = Bundle.open(bundle)
    with console.status("comparing with the PyTorch network"):
        parity = measure(opened, bundle_network(opened, weights))
    console.print(parity_table(parity))
    failed = failures(parity)
    for line in failed:
        print_error(line)
    sys.exit(1 if failed else 0)


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

    from .benchmarks.accuracy.compare import CompareRequest, as_tables
    from .benchmarks.accuracy.compare import compare as run_comparison
    from .runtime.job.console import RunDisplay

    request = CompareRequest(
        bundle=bundle,
        backend=backend,
        baseline=baseline,
        weights=weights,
        clips=tuple(clips or ()),
        root=data,
        sequences=tuple(name.strip() for name in sequences.split(",") if name.strip()) if sequences else (),
        frames=frames,
        memory=memory,
        interval=interval,
        curve=curve,
        min_iou=min_iou,
        max_loss=max_loss,
        max_error=max_error,
    )
    with RunDisplay("comparing") as display:
        comparison = run_comparison(request, display)
    console = Console()
    for table in as_tables(comparison):
        console.print(table)
    for line in comparison.failures:
        print_error(line)
    typer.echo("verdict: " + ("over the limits" if comparison.failures else "within the limits"))
    sys.exit(1 if comparison.failures else 0)


@app.command()
def quantize(
    bundle: Annotated[str, typer.Argument(help="Name of an fp32 bundle, or its folder.")],
    clips: Annotated[
        list[Path], typer.Option(help="A clip to calibrate on, with its mask beside it, NAME.png; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The int8 bundle's folder.")],
    max_error: Annotated[float, typer.Option(help="Layers stay in fp32 until a graph's error is below this.")] = 0.1,
    frames: Annotated[int, typer.Option(help="Frames of each clip.")] = 8,
    samples: Annotated[int, typer.Option(help="Calls of each graph and clip to calibrate on.")] = 8,
    include_weights: Annotated[
        bool, typer.Option("--weights-inside/--no-weights-inside", help="Keep the fp32 weights in the bundle.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Quantise a bundle's convolutions to 8 bits for the CPU; the masks change: see `compare --baseline`."""
    from rich.console import Console

    from .export.build.quantize import QuantizeOptions, quantize_bundle
    from .runtime.bundle import Bundle

    options = QuantizeOptions(max_error=max_error, frames=frames, samples=samples)
    with Console(stderr=True).status("opening the bundle") as status:
        made = quantize_bundle(
            Bundle.open(bundle),
            clips,
            out,
            options,
            include_weights=include_weights,
            overwrite=overwrite,
            progress=status.update,
        )
    assert made.manifest.quantization is not None
    for name, graph in made.manifest.quantization.graphs.items():
        layers = f"{len(graph.sensitivity) - len(graph.kept)} of {len(graph.sensitivity)} layers in 8 bits"
        typer.echo(f"{name}: {layers}, relative error {graph.rel_l2:.3f}")


@app.command()
def train(
    preset: Annotated[str, typer.Option(metavar="lite|paper-stage1|paper-stage2", help="Network and schedule.")],
    data: Annotated[list[Path], typer.Option(help="A folder of films or pictures with masks; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoint, weights and log.")],
    init: Annotated[
        Path | None, typer.Option(help="Weights file to start from.", show_default="lite: ImageNet's trunk")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.", show_default="no limit")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device to train on.")] = "auto",
    devices: Annotated[int, typer.Option(help="How many devices.")] = 1,
    precision: Annotated[
        str, typer.Option(metavar="32-true|bf16-mixed|16-mixed", help="Numbers to compute with.")
    ] = "32-true",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.", show_default="the preset's")] = None,
    batch: Annotated[int | None, typer.Option(help="Mini-sequences per step.", show_default="the preset's")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts to divide a batch into.", show_default="the preset's")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.", show_default="the preset's")] = None,
    label_heads: Annotated[
        int | None, typer.Option(help="1: both branches share one encoding (Table 2).", show_default="2")
    ] = None,
    cosine: Annotated[
        float | None, typer.Option(help="Weight of the cosine loss; 0 leaves it out (Table 2).", show_default="0.01")
    ] = None,
) -> None:
    """Train a network; OUT holds a whole checkpoint, weights for `export`, log.csv, curve.png and tensorboard/."""
    from .training.command import TrainRequest
    from .training.command import train as run_training

    outcome = run_training(
        TrainRequest(
            preset=preset,
            data=tuple(data),
            out=out,
            init=init,
            resume=resume,
            minutes=minutes,
            device=device,
            devices=devices,
            precision=precision,
            steps=steps,
            batch=batch,
            accumulate=accumulate,
            rate=rate,
            label_heads=label_heads,
            cosine=cosine,
        )
    )
    typer.echo(f"{outcome.step} of {outcome.steps} steps: {outcome.weights}")


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
    from .benchmarks.speed.bench import BenchRequest, whole_numbers
    from .benchmarks.speed.clip import CLIP
    from .benchmarks.speed.report.report import Outputs, run_and_report
    from .runtime.bundle import Bundle
    from .runtime.device_backends import runs_on_device

    if crop is not None:
        from .export.build.bundle import check_crop, parse_crop
    request = BenchRequest(
        bundles=tuple(bundles or ["lite"]),
        crops=() if crop is None else tuple(check_crop(parse_crop(text.strip())) for text in crop.split(",")),
        memory=whole_numbers("memory", memory),
        threads=whole_numbers("threads", threads),
        objects=whole_numbers("objects", objects),
        interval=interval,
        branches=branches,
        backends=tuple(name.strip() for name in backend.split(",")),
        source=source or CLIP,
        mask=mask,
        periods=periods,
        reference=reference,
        weights=weights,
        clips=clips,
    )
    outputs = Outputs(json=json, plots=plots, html=html, against=against)
    on_device = {runs_on_device(Bundle.open(b), name, device) for b in request.bundles for name in request.backends}
    if True in on_device:
        from .benchmarks.speed.device_bench import run_request

        run_request(request, outputs, device=device)
        return
    run_and_report(request, outputs)


@app.command()
def doctor() -> None:
    """Show versions, devices, providers and bundles, and whether each can be used."""
    from .runtime.doctor import examine, print_report

    report = examine()
    print_report(report)
    sys.exit(0 if report.usable else 2)


if __name__ == "__main__":
    main()
