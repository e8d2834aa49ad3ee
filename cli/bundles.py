"""Making bundles and testing them: `jointrt import-checkpoint`, `export`, `build`, `verify` and `quantize`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app, print_error
from .options import Backend, Device, Memory, Weights


@app.command("import-checkpoint")
def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A released .pth.tar, or a plain state dict.")],
    destination: Annotated[Path, typer.Argument(help="The weights file to write, .safetensors.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Turn a released checkpoint into a weights file; nothing in the checkpoint is run."""
    from ..export.checkpoint.released import import_checkpoint as convert

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
    windows: Annotated[
        str,
        typer.Option(metavar="released|steady", help="How windows as large as the frame are cut, by default."),
    ] = "released",
    include_weights: Annotated[
        bool, typer.Option("--weights-inside/--no-weights-inside", help="Keep the weights in the bundle.")
    ] = True,
    half_weights: Annotated[
        bool, typer.Option("--half-weights", help="Round the weights to fp16: half the size, still computed in fp32.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Export a model to a bundle of ONNX graphs; ends in a comparison with the PyTorch network.

    Weights for clicks have neither memory nor objects, and are not kept inside.
    """
    from rich.console import Console

    from ..export.build.bundle import export_bundle, parse_crop
    from ..export.build.clicks import export_click_bundle
    from ..export.checkpoint.weights import is_for_clicks
    from ..export.parity.table import parity_table
    from ..runtime.bundle import Bundle
    from ..runtime.clicks.bundle import ClickBundle

    size = None if crop is None else parse_crop(crop)
    console = Console()
    made: Bundle | ClickBundle
    with console.status("loading the weights") as status:
        shared: dict[str, Any] = {"crop": size, "half_weights": half_weights, "overwrite": overwrite}
        shared["progress"] = status.update
        if is_for_clicks(weights):
            made, kind = export_click_bundle(weights, out, **shared), "graphs for clicks"
        else:
            shared |= {"memory": memory, "interval": interval, "max_objects": max_objects, "windows": windows}
            made, kind = export_bundle(weights, out, include_weights=include_weights, **shared), "graphs"
    assert made.manifest.parity is not None
    console.print(parity_table(made.manifest.parity))
    typer.echo(f"{made.folder}: {len(made.manifest.graphs)} {kind}, opset {made.manifest.opset}")


@app.command()
def build(
    bundle: Annotated[str, typer.Argument(help="Name of an installed bundle of ONNX graphs, or its folder.")],
    backend: Annotated[
        str, typer.Option(metavar="tensorrt|tensorrt-rtx|onnxruntime|aoti", help="What the engines are for.")
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
    device: Annotated[
        str | None,
        typer.Option(metavar="cpu|cuda", help="Of this machine, to build for; aoti only.", show_default="cuda"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing bundle.")] = False,
) -> None:
    """Build engines for GPUs from a bundle; onnxruntime, and tensorrt-rtx with --target, need no GPU for that.

    aoti compiles PyTorch's graphs ahead, for a GPU or a CPU.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..errors import SettingsError
    from ..export.build.aoti import build_aoti_bundle
    from ..export.build.onnxruntime import build_onnx_bundle
    from ..export.build.tensorrt import BuildOptions, build_bundle, parse_targets
    from ..export.parity.engines import why_not_here
    from ..export.parity.table import parity_table
    from ..runtime.bundle import Bundle

    if clips and precision != "int8":
        raise SettingsError(f"--clips calibrates int8, the precision is {precision}: leave it out, or --precision int8")
    onnx = backend == "onnxruntime"
    if onnx and (target is not None or max_objects is not None):
        raise SettingsError("--target and --max-objects say nothing to ONNX Runtime: leave them out")
    if backend == "aoti" and target is not None:
        raise SettingsError("AOTInductor builds for the device of the machine it runs on: leave --target out")
    if backend != "aoti" and device is not None:
        raise SettingsError(f"--device says nothing to {backend}: leave it out")
    opened = Bundle.open(bundle)
    defaults = opened.manifest.defaults
    sizes: dict[str, Any] = {
        "memory": defaults.memory if memory is None else memory,
        "max_objects": defaults.max_objects if max_objects is None else max_objects,
    }
    folder = out or Path(f"{opened.folder.resolve().name}-{backend}")

    def made_with(**shared: Any) -> Bundle:
        if onnx:
            return build_onnx_bundle(opened, folder, precision=precision, memory=sizes["memory"], **shared)
        if backend == "aoti":
            return build_aoti_bundle(opened, folder, precision=precision, device=device or "cuda", **sizes, **shared)
        options = BuildOptions.check(backend=backend, precision=precision, targets=parse_targets(target), **sizes)
        return build_bundle(opened, folder, options, clips=clips or (), **shared)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("building", total=None)

        def progress(step: str, done: int, total: int) -> None:
            bar.update(task, description=step, completed=done, total=total)

        made = made_with(weights=weights, overwrite=overwrite, progress=progress)
    typer.echo(f"{made.folder}: {len(made.manifest.graphs)} {'graphs' if onnx else 'engines'}, {precision}")
    if made.manifest.parity is not None:
        Console().print(parity_table(made.manifest.parity))
    else:
        reason = "not on a GPU yet" if onnx else why_not_here(made.manifest)
        typer.echo(f"not compared with the PyTorch network: {reason}")


@app.command()
def verify(
    bundle: Annotated[str, typer.Argument(help="Name of an installed bundle, or a bundle's folder.")],
    backend: Backend = "auto",
    device: Device = "cpu",
    weights: Weights = None,
) -> None:
    """Compare a bundle with the PyTorch network again, on this machine; exit code 1 when over a tolerance."""
    from rich.console import Console

    from ..errors import SettingsError
    from ..export.build.clicks import verify_click_bundle
    from ..export.checkpoint.network import bundle_network
    from ..export.parity.graphs import failures
    from ..export.parity.table import parity_table
    from ..export.parity.verify import verify_bundle
    from ..runtime.bundle import Bundle, find_bundle, is_for_clicks
    from ..runtime.clicks.bundle import ClickBundle

    console = Console()
    with console.status("comparing with the PyTorch network"):
        if is_for_clicks(find_bundle(bundle)):
            if (backend, device) != ("auto", "cpu"):
                raise SettingsError("--backend and --device say nothing to a bundle for clicks: leave them out")
            parity, precision = verify_click_bundle(ClickBundle.open(bundle), weights), ""
        else:
            opened = Bundle.open(bundle)
            parity, precision = verify_bundle(opened, bundle_network(opened, weights), backend, device)
    console.print(parity_table(parity))
    failed = failures(parity, precision)
    for line in failed:
        print_error(line)
    sys.exit(1 if failed else 0)


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

    from ..export.build.quantize import QuantizeOptions, quantize_bundle
    from ..runtime.bundle import Bundle

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
