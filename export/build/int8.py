"""Convolutions with 8 bits as TensorRT takes them: signed and symmetric, a scale per output channel, biases left alone.

Only what goes into a convolution passes a quantise-dequantise pair: TensorRT moves the pairs itself, and one behind the
convolution would keep it from fusing the activation and the shortcut that follow. A shortcut's sum reads the pair of
the convolution beside it, as then the whole block runs in 8 bits; nothing else does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from ...runtime.bundle import Bundle
from ...runtime.manifest import GraphRecord, Quantization
from ..parity.clips import Clip, record_calls
from ..parity.graphs import CLIP
from .quantize import QUANTIZED, QuantizeOptions, quantize_graph

READERS = ("Conv", "Add")
"""Operators that read what passed a pair."""
LEAST_SCALE = 2.0**-24
"""fp16's smallest number: scales are fp16 in the typed graph, and those of dead channels must not become zero."""


def quantize_graphs(
    bundle: Bundle,
    clips: Sequence[Path],
    options: QuantizeOptions,
    folder: Path,
    records: Mapping[str, GraphRecord],
    progress: Callable[[str], None],
) -> Quantization:
    """Rewrite the exported graphs of backbone, label encoder and decoder with 8-bit convolutions.

    They are calibrated on what the bundle's own graphs of these names take in while it follows clips.

    Args:
        bundle: of ONNX graphs, fp32.
        clips: with their masks beside them; the shipped one is always used too.
        options: target error, frames and samples.
        folder: where the exported graphs lie.
        records: their records.
        progress: told what is being done.

    Raises:
        JointError: a clip or its mask cannot be used.
    """
    paths = [CLIP, *clips]
    progress("running the clips")
    opened = [Clip.open(path) for path in paths]
    calls = record_calls(bundle.folder, opened, QUANTIZED, frames=options.frames, per_clip=options.samples)
    graphs = {}
    for name in QUANTIZED:

        def report(step: str, graph: str = name) -> None:
            progress(f"{graph}: {step}")

        path = folder / records[name].file
        graphs[name] = quantize_graph(path, records[name], calls[name], options.max_error, report, write_signed)
    return Quantization(source=bundle.fingerprint, clips=tuple(path.name for path in paths), graphs=graphs)


def write_signed(plain: Path, out: Path, ranges: TensorsData, layers: AbstractSet[str]) -> None:
    """The graph with some convolutions in 8 bits; as `quantize.quantize_graph` asks for it."""
    model = onnx.load(str(plain))
    chosen = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name in layers]
    if not chosen:
        # An empty list means all of them to the quantiser.
        shutil.copyfile(plain, out)
        return
    options = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": ["Conv"],
    }
    signed = QuantType.QInt8
    quantizer = QDQQuantizer(model, True, False, signed, signed, ranges, chosen, [], ["Conv"], options)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized = quantizer.model.model
    _restrict_readers(quantized)
    _bound_scales(quantized)
    used = {node.domain for node in quantized.graph.node}
    kept = [opset for opset in quantized.opset_import if opset.domain in used]
    quantized.ClearField("opset_import")
    quantized.opset_import.extend(kept)
    onnx.save(quantized, str(out))


def _restrict_readers(model: ModelProto) -> None:
    """The quantiser gives a pair's result to all who read the value; others get the value itself back."""
    _free_outputs(model)
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in (*READERS, "DequantizeLinear"):
            continue
        for index, name in enumerate(node.input):
            if name in made and made[name].op_type == "DequantizeLinear":
                node.input[index] = made[made[name].input[0]].input[0]


def _free_outputs(model: ModelProto) -> None:
    """The quantiser puts a pair before an output that is also a layer's input: the output becomes the value itself."""
    made = {name: node for node in model.graph.node for name in node.output}
    renamed: dict[str, str] = {}
    for port in model.graph.output:
        pair = made[port.name]
        if pair.op_type == "DequantizeLinear":
            renamed |= {made[pair.input[0]].input[0]: port.name, port.name: f"{port.name}_narrow"}
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]


def _bound_scales(model: ModelProto) -> None:
    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            values = np.maximum(numpy_helper.to_array(tensor), np.float32(LEAST_SCALE))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def misplaced_pairs(model: ModelProto) -> list[str]:
    """What is wrong with the 8-bit part of a graph, in words; nothing in a sound one.

    Every pair must feed `READERS` only, with signed numbers, zero points of zero and no quantised bias; a convolution
    has both operands in 8 bits or none.
    """
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        pairs = [i for i, name in enumerate(node.input) if name in made and made[name].op_type == "DequantizeLinear"]
        if node.op_type == "Conv" and pairs not in ([], [0, 1]):
            found.append(f"{node.name}: operands {pairs} in 8 bits")
        elif node.op_type not in READERS and pairs:
            found.append(f"{node.op_type} {node.name} reads 8 bits")
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = constants.get(node.input[2]) if len(node.input) > 2 else None
            if zero is None or zero.dtype != np.int8 or zero.any():
                found.append(f"{node.name}: not signed and symmetric")
    return found
