import numpy as np
import onnx
import pytest
import torch
from jointrt.errors import BundleError
from jointrt.export.build import quantize
from jointrt.export.build.quantize import QuantizeOptions, quantize_bundle
from jointrt.export.checkpoint.network import bundle_network
from jointrt.export.graphs.grown_memory import BackboneGraph, PlainBackboneGraph
from jointrt.export.parity.graphs import CLIP, differences
from jointrt.runtime.bundle import sha256_of
from jointrt.runtime.cpu.onnxruntime_engine import Buffer, Engine
from jointrt.runtime.manifest import GraphRecord, Port
from jointrt.runtime.segmenter import Segmenter
from onnx import helper, numpy_helper


def stem_cost(bundle, name):
    """What a graph's first convolution costs in fp32: its products, and its numbers in and out."""
    record = bundle.manifest.graphs[name]
    graph = onnx.load(str(bundle.path(record.file))).graph
    stem = next(node for node in graph.node if node.op_type == "Conv")
    (stride,) = {s for attribute in stem.attribute if attribute.name == "strides" for s in attribute.ints}
    filters, *taps = next(initializer.dims for initializer in graph.initializer if initializer.name == stem.input[1])
    source = np.prod(record.inputs[0].shape[1:])
    result = filters * np.prod(record.inputs[0].shape[2:]) / stride**2
    return quantize.MS_PER_PRODUCT * result * np.prod(taps) + quantize.MS_PER_CONVERSION * (source + result)


def test_convolutions_become_8_bit_within_the_target_and_the_rest_is_copied(tiny_bundle, tmp_path, disc, monkeypatch):
    # The smallest graph: the search takes minutes on all three.
    monkeypatch.setattr(quantize, "QUANTIZED", ("label_encoder",))
    options = QuantizeOptions(max_error=0.2, frames=2, samples=2)
    made = quantize_bundle(tiny_bundle, [CLIP], tmp_path / "int8", options)
    assert made.manifest.precision == "int8"
    assert made.manifest.weights == tiny_bundle.manifest.weights
    for name, record in made.manifest.graphs.items():
        same = sha256_of(made.path(record.file)) == tiny_bundle.manifest.files[record.file]
        assert same == (name not in (*quantize.QUANTIZED, "backbone"))
    for name in quantize.QUANTIZED:
        found = made.manifest.quantization.graphs[name]
        assert found.rel_l2 <= 0.2
        assert set(found.kept) < set(found.sensitivity)
        gain = {n: found.sensitivity[n] ** 2 / found.costs[n] for n in found.sensitivity}
        left = set(found.sensitivity) - set(found.kept)
        assert min((gain[n] for n in found.kept), default=np.inf) >= max(gain[n] for n in left)
        assert next(iter(found.costs.values())) == pytest.approx(stem_cost(tiny_bundle, name))
        types = {i.data_type for i in onnx.load(str(made.path(made.manifest.graphs[name].file))).graph.initializer}
        assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= types
    segmenter = Segmenter.load(made.folder)
    frame, mask = disc(0)
    segmenter.step(frame, mask)
    assert segmenter.step(disc(1)[0]).shape == mask.shape
    assert np.isfinite(segmenter.probabilities()[1]).all()
    with pytest.raises(BundleError, match="int8"):
        quantize_bundle(made, [CLIP], tmp_path / "again", options)


def test_the_backbone_to_quantise_computes_the_same_by_ordinary_convolutions(tiny_bundle):
    net = bundle_network(tiny_bundle)
    crop = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(0)) * 255
    with torch.inference_mode():
        pairs = zip(PlainBackboneGraph(net)(crop), BackboneGraph(net)(crop), strict=True)
        for plain, fast in pairs:
            assert differences(plain.numpy(), fast.numpy())[1] < 1e-5


def test_a_layer_left_in_fp32_between_8_bit_ones_stays_so_in_the_engine(tmp_path):
    """ONNX Runtime would quantise its weights with one scale for both filters, unless told not to."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.normal(size=(2, 4, 3, 3)), "b": np.zeros(2), "s": np.array(0.01), "z": np.array(128)}
    types = {"w": np.float32, "b": np.float32, "s": np.float32, "z": np.uint8}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x8"]),
        helper.make_node("DequantizeLinear", ["x8", "s", "z"], ["x32"]),
        helper.make_node("Conv", ["x32", "w", "b"], ["c32"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c32", "s", "z"], ["c8"]),
        helper.make_node("DequantizeLinear", ["c8", "s", "z"], ["y"]),
    ]
    ports = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("x", 4), ("y", 2))]
    initializers = [numpy_helper.from_array(a.astype(types[n]), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "between", ports[:1], ports[1:], initializers)
    path = tmp_path / "between.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), str(path))
    # Multiples of the scale, so that only the layer's weights could be rounded.
    x = (rng.integers(-20, 20, (1, 4, 8, 8)) * 0.01).astype(np.float32)
    found = Buffer.zeros(1, 2, 8, 8)
    record = GraphRecord(
        file=path.name,
        inputs=(Port(name="x", shape=(1, 4, 8, 8), dtype="float32"),),
        outputs=(Port(name="y", shape=(1, 2, 8, 8), dtype="float32"),),
    )
    Engine(path, record, 1).run({"x": Buffer(x)}, {"y": found})
    w = torch.from_numpy(constants["w"].astype(np.float32))
    expected = torch.nn.functional.conv2d(torch.from_numpy(x), w, padding=1).clamp(-1.28, 1.27).numpy()
    assert np.abs(found.array - expected).max() < 0.0051
