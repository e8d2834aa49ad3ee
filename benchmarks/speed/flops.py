"""The multiplications and additions of an ONNX graph."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import onnx

from ...runtime.cpu.onnxruntime_engine import import_onnxruntime


def count_flop(path: Path, inputs: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications and additions of one run: of matrix products and convolutions, as the graph does them.

    Everything else (exponentials, norms, resizing that is no product) is not counted: it is limited by memory.

    Args:
        path: the graph's file.
        inputs: the shape of every input.

    Raises:
        ValueError: a product's size does not follow from the inputs'.
    """
    model = _folded(onnx.load(str(path)), inputs)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*inferred.value_info, *inferred.input, *inferred.output)
    }
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in inferred.initializer})
    return sum(_products(inferred.node, shapes))


def _folded(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with fixed inputs and all that follows from their shapes computed, by ONNX Runtime."""
    ort = import_onnxruntime()
    for value in model.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, inputs[value.name], strict=True):
            dim.dim_value = size
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _products(nodes: Iterable[onnx.NodeProto], shapes: Mapping[str, tuple[int, ...]]) -> Iterable[int]:
    for node in nodes:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        left, right, out = (shapes.get(name, ()) for name in (node.input[0], node.input[1], node.output[0]))
        if not (left and right and out and all((*left, *right, *out))):
            raise ValueError(f"the size of {node.op_type} {node.name} does not follow from the inputs")
        if node.op_type == "Conv":
            terms = prod(right[1:])
        else:
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            terms = left[0] if transposed else left[-1]
        yield 2 * prod(out) * terms
