import onnx
import pytest
from jointrt.benchmarks.speed.flops import count_flop
from jointrt.benchmarks.speed.roofline import STAGES, MatrixProduct, stage_gflop
from onnx import TensorProto, helper


def save(path, nodes, inputs, output, constants=()):
    """A graph of fp32 ports; sizes given as text are dynamic."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, output)
    graph = helper.make_graph(nodes, "test", ports, [out], list(constants))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


CASES = {
    "a batch of products": (
        [helper.make_node("MatMul", ["a", "b"], ["out"])],
        {"a": (3, 5, 7), "b": (7, 11)},
        3 * 5 * 11 * 7,
    ),
    "a transposed product": (
        [helper.make_node("Gemm", ["a", "b"], ["out"], transA=1, transB=1)],
        {"a": (7, 5), "b": (11, 7)},
        5 * 11 * 7,
    ),
    "a convolution with stride": (
        [helper.make_node("Conv", ["a", "b"], ["out"], strides=[2, 2], pads=[1, 1, 1, 1])],
        {"a": (2, 4, 8, 10), "b": (6, 4, 3, 3)},
        2 * 6 * (4 * 5) * (4 * 3 * 3),
    ),
    "a depthwise convolution": (
        [helper.make_node("Conv", ["a", "b"], ["out"], group=4)],
        {"a": (1, 4, 8, 10), "b": (4, 1, 3, 3)},
        4 * (6 * 8) * (3 * 3),
    ),
    "what is no product": ([helper.make_node("Add", ["a", "b"], ["out"])], {"a": (9,), "b": (9,)}, 0),
}


@pytest.mark.parametrize("name", CASES)
def test_counted_by_hand(name, tmp_path):
    nodes, inputs, pairs = CASES[name]
    rank = {"a batch of products": 3, "a transposed product": 2, "what is no product": 1}.get(name, 4)
    path = save(tmp_path / "graph.onnx", nodes, inputs, [None] * rank)
    assert count_flop(path, inputs) == 2 * pairs


def test_sizes_that_are_computed_from_the_inputs_are_followed(tmp_path):
    """(B, N, 6) flattened to (1, 6 B N), by its own shape, times (6 B N, 4)."""
    nodes = [
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=1),
        helper.make_node("Concat", ["one", "count"], ["target"], axis=0),
        helper.make_node("Reshape", ["a", "target"], ["row"]),
        helper.make_node("MatMul", ["row", "b"], ["out"]),
    ]
    one = helper.make_tensor("one", TensorProto.INT64, [1], [1])
    path = save(tmp_path / "graph.onnx", nodes, {"a": ("B", "N", 6), "b": ("M", 4)}, [None, None], [one])
    assert count_flop(path, {"a": (2, 5, 6), "b": (60, 4)}) == 2 * 60 * 4


def test_graphs_of_a_bundle_follow_closed_forms(tiny_bundle):
    """n tokens, keys of c, features of C, encodings of D, filters of K2D rows."""
    n, c, C, D, K2D, N = (64 // 16) * (128 // 16), 64, 128, 16, 9 * 16, 3
    graph = tiny_bundle.manifest.graphs

    def flop(name):
        sizes = {"B": 1, "N": N}
        return count_flop(
            tiny_bundle.path(graph[name].file),
            {p.name: tuple(sizes.get(size, size) for size in p.shape) for p in graph[name].inputs},
        )

    assert flop("memory_read") == 2 * n * n * (c + D)
    assert flop("few_shot_residual") == 2 * N * n * C * K2D
    assert flop("few_shot_step") == 2 * 2 * N * n * C * K2D
    # Of an addition: three products over all pairs, the sum of columns as one, then the new keys.
    keys = flop("memory_encode")
    assert flop("memory_add") == 2 * n * n * (c + 2 * C + 1) + keys
    assert flop("memory_replace") - flop("memory_add") == 2 * n * n * (c + C)
    calls = {("memory_read", tuple((p.name, (1, *p.shape[1:])) for p in graph["memory_read"].inputs)): N}
    assert stage_gflop(tiny_bundle, calls) == {"memory_read": pytest.approx(N * flop("memory_read") / 1e9)}


def test_every_graph_has_a_stage(tiny_bundle):
    assert set(tiny_bundle.manifest.graphs) <= set(STAGES)


def test_a_product_has_a_rate():
    assert MatrixProduct(threads=1, size=64).rate() > 0
