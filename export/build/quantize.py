"""`jointrt quantize`: an fp32 bundle -> one whose convolutions compute with 8 bits on the CPU.

Activations are unsigned, weights signed with a scale per output channel, in ONNX Runtime's QDQ form. A layer's
sensitivity is the error of its graph when that layer alone is quantised. Layers' errors are about independent, so their
squares add up: those with the largest square for the time that they cost in fp32 stay there, as many as it takes to
bring the graph's error under a target.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from ...errors import BundleError, SettingsError
from ...runtime.bundle import WEIGHTS, Bundle
from ...runtime.cpu.onnxruntime_engine import Engine, import_onnxruntime
from ...runtime.manifest import GraphQuantization, GraphRecord, Quantization
from ...runtime.settings import available_cores
from ..checkpoint.network import bundle_network
from ..graphs.grown_memory import PlainBackboneGraph
from ..parity.clips import Call, Clip, record_calls
from ..parity.graphs import call_errors, worst
from .bundle import derived_manifest, replaced_folder, tool_versions, write_manifest
from .onnx_graph import export_graph

QUANTIZED = ("backbone", "label_encoder", "decoder")
"""Graphs that are quantised; attention, memory and few-shot learner stay fp32."""
LAYERS = ("Conv", "MatMul")
"""Operators that are layers where their second operand is constant."""
BETWEEN = ("Relu", "Clip", "Add", "MaxPool")
"""Operators that follow a layer into 8 bits, so that it need not return to fp32 before them."""
MS_PER_PRODUCT, MS_PER_CONVERSION = 5.5e-9, 0.65e-6
"""What a multiplication in fp32 costs more than in 8 bits, and a number's way from one to the other and its layout, in
milliseconds of one thread: measured on a Zen 5 with VNNI; only their ratio matters."""
MAX_ERROR = 0.1
"""Default target of a graph's error: relative L2, worst output, mean over calls."""
JUDGED = 2
"""Calls on which errors are measured."""


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantise.

    Attributes:
        max_error: target of every graph's relative L2 error.
        frames: of each clip.
        samples: calls of each graph and clip to calibrate on.
    """

    max_error: float = MAX_ERROR
    frames: int = 8
    samples: int = 8

    def __post_init__(self) -> None:
        if not self.max_error > 0:
            raise SettingsError(f"max error is {self.max_error}: expected a number above 0")
        for name in ("frames", "samples"):
            if getattr(self, name) < 2:
                raise SettingsError(f"{name} is {getattr(self, name)}: expected 2 or more")


def quantize_bundle(
    bundle: Bundle,
    clips: Sequence[Path],
    out: Path,
    options: QuantizeOptions,
    *,
    include_weights: bool = True,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Calibrate on closed loops over clips, search for the sensitive layers, write the bundle.

    Args:
        bundle: of fp32 ONNX graphs.
        clips: see `Clip.open`.
        out: the new bundle's folder.
        options: how to quantise.
        include_weights: keep the fp32 weights in the bundle, where the given one has them.
        overwrite: replace an existing bundle.
        progress: told what is being done.

    Raises:
        BundleError: the bundle is not of fp32 ONNX graphs.
        JointError: a clip or its mask cannot be used, or `out` cannot be written.
    """
    manifest = bundle.manifest
    if manifest.backend != "onnx" or manifest.precision != "fp32":
        raise BundleError(
            f"{bundle.folder} holds {manifest.backend} graphs in {manifest.precision}: expected onnx in fp32; give "
            "the bundle that `jointrt export` wrote"
        )
    if not clips:
        raise SettingsError("no clip is given: expected at least one to calibrate on")
    opened = [Clip.open(path) for path in clips]
    with replaced_folder(out, overwrite) as folder:
        files = [name for name in manifest.files if include_weights or name != WEIGHTS]
        for name in files:
            shutil.copyfile(bundle.path(name), folder / name)
        progress("running the clips")
        calls = record_calls(bundle.folder, opened, QUANTIZED, frames=options.frames, per_clip=options.samples)
        if bundle.path(WEIGHTS).is_file():
            progress("tracing the backbone without Winograd's transforms")
            export_graph(PlainBackboneGraph(bundle_network(bundle)), folder)
        records = {}
        for name in QUANTIZED:
            record = manifest.graphs[name]
            report = partial(_report, progress, name)
            records[name] = quantize_graph(
                folder / record.file, record, calls[name], options.max_error, report, write_unsigned
            )
        made = Quantization(source=bundle.fingerprint, clips=tuple(path.name for path in clips), graphs=records)
        kept = {"opset": manifest.opset, "tools": {**manifest.tools, **tool_versions()}}
        write_manifest(folder, derived_manifest(manifest, folder, precision="int8", quantization=made, **kept))
    return Bundle.open(out)


def _report(progress: Callable[[str], None], graph: str, step: str) -> None:
    progress(f"{graph}: {step}")


Write = Callable[[Path, Path, TensorsData, AbstractSet[str]], None]
"""Graph, file to write, ranges of activations, layers to have in 8 bits."""


def quantize_graph(
    path: Path,
    record: GraphRecord,
    calls: Sequence[Call],
    max_error: float,
    progress: Callable[[str], None],
    write: Write,
) -> GraphQuantization:
    """Rewrite a graph's file with 8-bit layers.

    Args:
        path: the graph in fp32; replaced.
        record: its ports.
        calls: inputs to calibrate on; the last few, with their outputs, are what errors are measured on.
        max_error: keep layers in fp32 until the graph's error is at most this.
        progress: told what is being done.
        write: puts 8 bits into a graph, in the form that who runs it takes.
    """
    with tempfile.TemporaryDirectory() as temporary:
        plain, trial = Path(temporary) / "plain.onnx", Path(temporary) / "trial.onnx"
        _fold_constants(path, plain)
        costs = _costs(plain, calls[-1])
        layers = list(costs)
        progress("calibrating")
        ranges = _calibrate(plain, calls, Path(temporary))

        def error(kept: Sequence[str], only: str | None = None) -> float:
            chosen = {only} if only else set(layers) - set(kept)
            write(plain, trial, ranges, chosen)
            return _error(trial, record, calls[-JUDGED:])

        sensitivity = {}
        for i, name in enumerate(layers):
            progress(f"sensitivity of layer {i + 1} of {len(layers)}")
            sensitivity[name] = error((), only=name)
        order = sorted(layers, key=lambda name: -(sensitivity[name] ** 2) / costs[name])
        progress("choosing the layers that stay in fp32")
        # Fewest layers, by bisection: the error falls as more of the sensitive ones stay in fp32.
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if error(order[:middle]) <= max_error else (middle + 1, high)
        reached = error(order[:low])
        shutil.copyfile(trial, path)
    return GraphQuantization(rel_l2=reached, kept=tuple(order[:low]), sensitivity=sensitivity, costs=costs)


def _costs(path: Path, call: Call) -> dict[str, float]:
    """What keeping each layer in fp32 costs, in estimated milliseconds of one thread: its products and conversions."""
    model = onnx.load(str(path))
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, call.inputs[value.name].shape, strict=True):
            dim.dim_value = size
    # The types that the file gives have a dynamic batch.
    del model.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    elements = {
        value.name: math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = {initializer.name: initializer.dims for initializer in graph.initializer}
    costs = {}
    for node in graph.node:
        if node.op_type in LAYERS and node.input[1] in weights:
            # One output takes a filter (output channels first), or a column of a matrix.
            shape = weights[node.input[1]]
            taps = math.prod(shape[1:] if node.op_type == "Conv" else shape[:1])
            source, result = elements[node.input[0]], elements[node.output[0]]
            costs[node.name] = MS_PER_PRODUCT * result * taps + MS_PER_CONVERSION * (source + result)
    return costs


def _fold_constants(path: Path, out: Path) -> None:
    """Fold constants, weights that are stored in fp16 among them, so that the quantiser sees them; name all nodes."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(out)
    options.log_severity_level = 3
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(str(out))
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{i}"
    onnx.save(model, str(out))


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calls' inputs, one by one."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._inputs = iter([call.inputs for call in calls])

    def get_next(self) -> Any:
        """The next inputs by name; None at the end."""
        return next(self._inputs, None)


def _calibrate(model: Path, calls: Sequence[Call], folder: Path) -> TensorsData:
    """Ranges of all activations that may be quantised."""
    calibrator = create_calibrator(
        model,
        [*LAYERS, *BETWEEN],
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"symmetric": False},
    )
    calibrator.collect_data(_Reader(calls))
    return calibrator.compute_data()


def _with_followers(graph: onnx.GraphProto, layers: AbstractSet[str]) -> list[str]:
    """Names of layers and of the operators between them all of whose operands are already in 8 bits."""
    narrow: set[str] = set()
    constants = {initializer.name for initializer in graph.initializer}
    nodes = []
    for node in graph.node:
        follows = node.op_type in BETWEEN and {n for n in node.input if n not in constants} - {""} <= narrow
        if node.name in layers or follows:
            nodes.append(node.name)
            narrow.update(node.output)
    return nodes


def write_unsigned(plain: Path, out: Path, ranges: TensorsData, layers: AbstractSet[str]) -> None:
    """The graph with some layers in 8 bits, in ONNX Runtime's form for CPUs."""
    model = onnx.load(str(plain))
    nodes = _with_followers(model.graph, layers)
    if not nodes:
        # An empty list means all of them to the quantiser.
        shutil.copyfile(plain, out)
        return
    quantizer = QDQQuantizer(
        model,
        True,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        nodes,
        [],
        [*LAYERS, *BETWEEN],
        {"ActivationSymmetric": False, "WeightSymmetric": True},
    )
    quantizer.quantize_model()
    quantizer.model.save_model_to_file(str(out))


def _error(path: Path, record: GraphRecord, calls: Sequence[Call]) -> float:
    """Relative L2 error of a graph, worst output, mean over calls."""
    engine = Engine(path, record, available_cores())
    errors = (worst(record.file, call_errors(engine, call.inputs, call.outputs)) for call in calls)
    return float(np.mean([error.rel_l2 for error in errors]))
