"""Convolutions in 8 bits for TensorRT: where the pairs stand, what they cost, and that the engines build."""

import shutil

import onnx
import pytest
from jointrt.export.build.int8 import misplaced_pairs, write_signed
from jointrt.export.build.precision import misplaced_islands
from jointrt.export.build.quantize import QUANTIZED, _calibrate, _error, _fold_constants, quantize_graph
from jointrt.export.build.tensorrt import BuildOptions, EngineBuilder, write_typed
from jointrt.export.parity.clips import Clip, record_calls
from jointrt.export.parity.graphs import CLIP
from onnx import TensorProto, helper


@pytest.fixture(scope="module")
def calls(tiny_bundle):
    return record_calls(tiny_bundle.folder, [Clip.open(CLIP)], QUANTIZED, frames=3, per_clip=3)


def operators(path, name):
    return [node for node in onnx.load(path).graph.node if node.op_type == name]


@pytest.mark.parametrize("name", QUANTIZED)
def test_all_convolutions_in_8_bits(fixed_graphs, calls, tmp_path, name):
    record = fixed_graphs.manifest.graphs[name]
    plain, narrow, typed = (tmp_path / f"{kind}.onnx" for kind in ("plain", "narrow", "typed"))
    _fold_constants(fixed_graphs.path(record.file), plain)
    layers = {node.name for node in operators(plain, "Conv")}
    write_signed(plain, narrow, _calibrate(plain, calls[name], tmp_path), layers)
    assert _error(narrow, record, calls[name][-1:]) < (0.4 if name == "backbone" else 0.05)

    written = write_typed(narrow, record, "int8", typed)
    model = onnx.load(typed)
    assert misplaced_pairs(model) == misplaced_islands(model) == []
    made = {output: node for node in model.graph.node for output in node.output}
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    convolutions = operators(typed, "Conv")
    assert len(convolutions) == len(layers)
    for node in convolutions:
        pairs = [made[operand] for operand in node.input[:2]]
        assert [pair.op_type for pair in pairs] == ["DequantizeLinear"] * 2
        assert [kinds[pair.input[1]] for pair in pairs] == [TensorProto.FLOAT16] * 2
        assert kinds[pairs[1].input[0]] == TensorProto.INT8, "weights are stored in 8 bits"
        assert len(node.input) < 3 or kinds[node.input[2]] == TensorProto.FLOAT16, "biases are not"
    assert {port.dtype for port in (*written.inputs, *written.outputs)} == {"float16", "float32"}

    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra tensorrt-rtx)")
    options = BuildOptions.check(
        backend="tensorrt-rtx",
        precision="int8",
        targets=(89,),
        max_objects=2,
        memory=fixed_graphs.manifest.defaults.memory,
    )
    EngineBuilder(options, tmp_path / "cache").build(typed, tmp_path / "engine")
    assert (tmp_path / "engine").stat().st_size > 10_000


def test_sensitive_layers_stay_as_they_are(fixed_graphs, calls, tmp_path):
    record = fixed_graphs.manifest.graphs["label_encoder"]
    path = tmp_path / record.file
    shutil.copyfile(fixed_graphs.path(record.file), path)
    found = quantize_graph(path, record, calls["label_encoder"], 0.004, lambda step: None, write_signed)
    assert found.rel_l2 <= 0.004 and 0 < len(found.kept) < len(found.sensitivity)
    narrow = [n for n in operators(path, "Conv") if n.input[0].endswith("DequantizeLinear_Output")]
    assert len(narrow) == len(found.sensitivity) - len(found.kept)
    assert misplaced_pairs(onnx.load(path)) == []


def test_misplaced_pairs_are_reported():
    """Unsigned numbers, and a product that reads them."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in ("x", "y")]
    constants = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]),
        helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="d"),
        helper.make_node("MatMul", ["d", "d"], ["y"], name="m"),
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    assert misplaced_pairs(helper.make_model(graph)) == [
        "q: not signed and symmetric",
        "d: not signed and symmetric",
        "MatMul m reads 8 bits",
    ]
