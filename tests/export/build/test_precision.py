import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from jointrt.export.build.onnx_graph import export_graph
from jointrt.export.build.precision import misplaced_islands, port_type, to_half
from jointrt.export.graphs.few_shot_loop import unroll
from jointrt.export.graphs.fixed_memory import gpu_graphs
from jointrt.model.target_model import to_matrix
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

CAPACITY = 3


@pytest.fixture(scope="module")
def trace(net, tmp_path_factory):
    """A graph's module and its exported form, by name; each is traced once."""
    folder = tmp_path_factory.mktemp("traced")
    graphs = {g.name: g for g in gpu_graphs(net, CAPACITY)}

    def load(name):
        path = folder / f"{name}.onnx"
        if not path.is_file():
            export_graph(graphs[name], folder)
        model = onnx.load(path)
        model.graph.name = name
        return graphs[name], model

    return load


@pytest.mark.parametrize("replaced", [False, True])
def test_the_fixed_memory_gives_what_the_whole_attention_gives(net, replaced):
    """Frames enter one after another, the last one possibly in another's place; eq. 2 to 5 say what must come out."""
    graphs = {g.name: g for g in gpu_graphs(net, CAPACITY)}
    torch.manual_seed(2)
    n, C, D = 24, net.config.feature_channels, net.config.encoding_channels
    frames = torch.randn(4 if replaced else 2, n, C)
    bank = [torch.full((1, CAPACITY, *g.shape[2:]), 9.0) for g in graphs["memory_update"].inputs()[:4]]
    valid = torch.zeros(1, CAPACITY)
    stored = {}
    for t, z in enumerate(frames):
        slot = torch.zeros(1, CAPACITY)
        slot[0, t if t < CAPACITY else 1] = 1
        stored[t if t < CAPACITY else 1] = z
        _, *features = graphs["transformer_query"](z[None])
        *bank, keys = graphs["memory_update"](*bank, valid, slot, z[None], *features)
        valid = torch.maximum(valid, slot)
    E = torch.rand(1, CAPACITY, n, D)
    x = torch.randn(1, n, C)
    query, *_ = graphs["transformer_query"](x)
    found = graphs["memory_read"](query, keys, E, valid)

    h, w = net.config.feature_size
    maps = torch.stack([stored[i] for i in sorted(stored)]).transpose(1, 2).unflatten(2, (h, w))[None]
    values = E[:, : len(stored)].transpose(2, 3).unflatten(3, (h, w))
    x_map = x.transpose(1, 2).unflatten(2, (h, w))
    expected = net.transformer.decode(x_map, net.transformer.encode(maps), values)
    torch.testing.assert_close(found.transpose(1, 2).unflatten(2, (h, w)), expected, rtol=1e-4, atol=1e-5)


def test_samples_of_weight_zero_do_not_change_what_is_learned(net):
    graphs = {g.name: g for g in gpu_graphs(net, CAPACITY)}
    torch.manual_seed(3)
    n, C, D, K = 24, net.config.feature_channels, net.config.encoding_channels, net.config.filter_size
    z, E, W = torch.randn(1, CAPACITY, n, C), torch.rand(1, CAPACITY, n, D), torch.rand(1, CAPACITY, n, D)
    omega = torch.zeros(1, K * K * D, C)
    weights, residual = graphs["few_shot_residual"](z, E, W, torch.tensor([[0.75, 0.25, 0.0]]), omega)
    for _ in range(3):
        omega, residual = graphs["few_shot_step"](z, weights, omega, residual)

    h, w = net.config.feature_size
    maps = [t[:, :2].transpose(2, 3).unflatten(3, (h, w)) for t in (z, E, W)]
    expected = net.target_model.fit(*maps, torch.tensor([[0.75, 0.25]]), None, 3)
    found = omega.unflatten(1, (K, K, D)).permute(0, 3, 4, 1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name, steps", [("few_shot_start", 20), ("few_shot_update", 3)])
def test_the_loop_in_one_graph_learns_what_the_network_learns(net, trace, name, steps, precision):
    """Exported and run by ONNX Runtime, at fixed capacity with an empty slot; eq. 6 by the network's own learner."""
    parts = [trace(f"few_shot_{part}")[1] for part in ("residual", "step")]
    single = unroll(*parts, steps, name)
    generator = np.random.default_rng(3)
    n, C, D, K = 24, net.config.feature_channels, net.config.encoding_channels, net.config.filter_size
    half = np.float16 if precision == "fp16" else np.float32
    feeds = {
        "z_ind": generator.standard_normal((1, CAPACITY, n, C)).astype(half),
        "E_ind_all": generator.uniform(size=(1, CAPACITY, n, D)).astype(np.float32),
        "W_all": generator.uniform(size=(1, CAPACITY, n, D)).astype(np.float32),
        "sample_weights": np.array([[0.75, 0.25, 0.0]], np.float32),
        "omega": np.zeros((1, K * K * D, C), np.float32),
    }
    half_graph = to_half(single)
    assert misplaced_islands(half_graph) == []
    (found,) = run(half_graph if precision == "fp16" else single, feeds)

    h, w = net.config.feature_size
    samples = [torch.from_numpy(feeds[k][:, :2].astype(np.float32)) for k in ("z_ind", "E_ind_all", "W_all")]
    maps = [t.transpose(2, 3).unflatten(3, (h, w)) for t in samples]
    expected = to_matrix(net.target_model.fit(*maps, torch.tensor([[0.75, 0.25]]), None, steps)).numpy()
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)


# Fifty layers of random weights, and exponentials of thirty times a rounded product.
TOLERANCE = {"backbone": 0.03, "transformer_query": 0.03, "memory_read": 0.03}


@pytest.mark.parametrize("name", ["backbone", "label_encoder", "transformer_query", "memory_read", "decoder"])
def test_half_precision_graphs_stay_near_single_precision(trace, name):
    graph, single = trace(name)
    half = to_half(single)
    assert misplaced_islands(half) == []
    for port in (*half.graph.input, *half.graph.output):
        assert port.type.tensor_type.elem_type == port_type(port.name)
    generator = np.random.default_rng(0)
    feeds = {}
    for port in graph.inputs():
        shape = [1 if n == "B" else n for n in port.shape]
        values = generator.standard_normal(shape).astype(np.float32)
        if port.name == "crop":
            values = generator.uniform(0, 255, shape).astype(np.float32)
        elif port.name == "valid":
            values = np.array([[1, 1, 0]], np.float32)
        elif "query" in port.name or "key" in port.name:
            values /= np.linalg.norm(values, axis=-1, keepdims=True)
        feeds[port.name] = values
    expected = run(single, feeds)
    halved = {k: v.astype(np.float16) if port_type(k) == TensorProto.FLOAT16 else v for k, v in feeds.items()}
    for found, wanted in zip(run(half, halved), expected, strict=True):
        error = np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted)
        assert error < TOLERANCE.get(name, 0.01)


def in_half_precision(model, feeds):
    """Operator by operator: on a CPU ONNX Runtime leaves out roundings between operators that it computes in fp32."""
    return ReferenceEvaluator(to_half(model)).run(None, feeds)


def unit_vectors(generator, *shape):
    values = generator.standard_normal(shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def test_a_query_unlike_all_keys_is_still_answered(net, trace):
    """All affinities lie below fp16's smallest number, 6e-8; eq. 5 by torch's softmax says what must come out."""
    graph, single = trace("memory_read")
    generator = np.random.default_rng(4)
    n, c, D = 24, net.config.key_channels, net.config.encoding_channels
    keys, query = unit_vectors(generator, 1, CAPACITY, n, c), unit_vectors(generator, 1, n, c)
    query[..., 0] -= 4
    keys[..., 0] += 2
    query, keys = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query, keys))
    cosines = query @ keys[0].reshape(-1, c).T
    assert np.exp((cosines.max() - 1) / net.config.temperature) < 2.0**-25
    values = generator.uniform(0, 8, (1, CAPACITY, n, D)).astype(np.float32)
    feeds = [graph.key_scale * query, graph.key_scale * keys, values]
    (found,) = in_half_precision(
        single,
        {p.name: f.astype(np.float16) for p, f in zip(graph.inputs(), feeds, strict=False)}
        | {"valid": np.ones((1, CAPACITY), np.float32)},
    )
    shares = torch.softmax(torch.from_numpy(cosines) / net.config.temperature, -1)
    expected = (shares @ torch.from_numpy(values).flatten(1, 2)).numpy()
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)


def test_sums_over_tokens_that_are_all_alike_do_not_overflow(net, trace):
    """Of a uniform frame every token counts fully: the sum of its features exceeds fp16's largest number."""
    _, single = trace("transformer_query")
    x = np.full((1, 24, net.config.feature_channels), 4000, np.float32)
    x += np.random.default_rng(5).standard_normal(x.shape).astype(np.float32)
    expected = run(single, {"x_tra": x})
    found = in_half_precision(single, {"x_tra": x.astype(np.float16)})
    assert np.abs(expected[2]).max() > 65504
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(b)


def run(model, feeds):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


@pytest.mark.parametrize("name", ["memory_update", "few_shot_residual", "few_shot_step"])
def test_sums_that_are_carried_on_stay_single(trace, name):
    _, single = trace(name)
    half = to_half(single)
    assert misplaced_islands(half) == []
    kinds = {p.name: p.type.tensor_type.elem_type for p in (*half.graph.input, *half.graph.output)}
    carried = {"C_all", "C_all_next", "D_all_next", "omega", "omega_next"} & set(kinds)
    assert carried or name == "few_shot_residual"
    assert all(kinds[p] == TensorProto.FLOAT for p in carried)


def test_an_exponential_in_half_precision_is_reported():
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [2]) for name in ("x", "y")]
    nodes = [helper.make_node("Exp", ["x"], ["y"], name="e")]
    model = helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:]))
    assert misplaced_islands(model) == ["Exp e"]


def test_a_norm_over_large_features_does_not_overflow(trace):
    """The squares of the features sum to more than fp16's largest number; naive half precision gives infinity."""
    _, single = trace("backbone")
    crop = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    for tensor in single.graph.initializer:
        if "adjust_ind" in tensor.name:
            values = onnx.numpy_helper.to_array(tensor) * 3000
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    found = run(to_half(single), {"crop": crop})[-1]
    expected = run(single, {"crop": crop})[-1]
    assert np.isfinite(found).all()
    assert np.linalg.norm(found - expected) < 0.01 * np.linalg.norm(expected)
