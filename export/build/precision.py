"""Precision put into a graph: half-precision products, Casts around what must stay in single precision.

TensorRT 11 and TensorRT-RTX take every tensor's type from the graph (strongly typed networks), so the choice is made
here. These stay fp32 whatever the precision: the sums of squares of the instance L2 norm (they overflow fp16), the
statistics of the instance norms, the attention's exponentials and their sums, all sums that are carried on from frame
to frame, `lite`'s first two convolutions, and the whole few-shot learner.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from ...errors import BundleError
from ..graphs.half_precision import port_dtype, single_convolutions

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)

ISLANDS = frozenset(
    [
        "Exp",
        "Log",
        "Sqrt",
        "Reciprocal",
        "Pow",
        "Softmax",
        "ReduceSum",
        "ReduceMean",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "CumSum",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "Erf",
    ]
)
"""Operators that are always computed in fp32."""
_ELEMENTWISE = frozenset(["Add", "Sub", "Mul", "Div", "Neg", "Abs", "Clip", "Max", "Min", "Where", "Sum"])
_MOVING = frozenset(
    [
        "Transpose",
        "Reshape",
        "Slice",
        "Concat",
        "Gather",
        "Expand",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Identity",
        "Split",
        "Pad",
        "Tile",
    ]
)
_SINGLE_GRAPHS = ("few_shot",)


def port_type(name: str) -> int:
    """The ONNX element type of a port in a half-precision bundle; see `half_precision.port_dtype`."""
    return FLOAT if port_dtype(name, "fp16") == "float32" else HALF


def element_types(model: ModelProto) -> dict[str, int]:
    """Element type of every value of a graph, by name."""
    graph = shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = attribute.t
    return found


def _sums_by_product(node: NodeProto, ones: set[str]) -> bool:
    return node.op_type in ("MatMul", "Gemm") and any(name in ones for name in node.input)


def _entrance(model: ModelProto) -> set[str]:
    """Outputs of the first convolutions that stay fp32; one in 8 bits ends them."""
    constants = _constants(model)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    plain = list(itertools.takewhile(lambda node: node.input[1] in constants, convolutions))
    shapes = []
    for node in plain:
        groups = next((int(a.i) for a in node.attribute if a.name == "group"), 1)
        shapes.append((constants[node.input[1]].dims[1], groups))
    return {node.output[0] for node in plain[: single_convolutions(shapes)]}


def island_nodes(model: ModelProto) -> list[NodeProto]:
    """The nodes whose operands and results must be fp32.

    Exponentials, roots, reductions; squares; products with a row of ones, which are sums written as products; the
    convolutions at a trunk's entrance; and in the few-shot learner everything that computes.
    """
    ones: set[str] = set()
    expanded: set[str] = set()
    for name, tensor in _constants(model).items():
        if tensor.data_type in (FLOAT, HALF):
            values = numpy_helper.to_array(tensor)
            if values.size and np.all(values == 1):
                ones.add(name)
    for node in model.graph.node:
        if node.op_type in ("Expand", "ConstantOfShape", "Cast", "Identity") and (
            node.op_type == "ConstantOfShape" or node.input[0] in ones | expanded
        ):
            expanded.update(node.output)
    whole = model.graph.name.startswith(_SINGLE_GRAPHS)
    entrance = _entrance(model)
    return [
        node
        for node in model.graph.node
        if node.op_type in ISLANDS
        or node.output[0] in entrance
        or (node.op_type == "Mul" and node.input[0] == node.input[1])
        or _sums_by_product(node, ones | expanded)
        or (whole and node.op_type in _ELEMENTWISE | {"MatMul", "Gemm", "Conv", "Einsum"})
    ]


def misplaced_islands(model: ModelProto) -> list[str]:
    """Islands of a typed graph that are not in fp32, as `operator node`; none in a sound graph."""
    types = element_types(model)
    return [
        f"{node.op_type} {node.name or node.output[0]}"
        for node in island_nodes(model)
        if any(types.get(name) == HALF for name in (*node.input, *node.output))
    ]


class _Typing:
    """One pass over a graph in its order, with a Cast wherever a node needs a value in another type."""

    def __init__(self, model: ModelProto, types: dict[str, int]) -> None:
        self.graph = model.graph
        self.types = types
        self.constants = _constants(model)
        self.floating = {name for name, kind in self.types.items() if kind == FLOAT}
        self.islands = {node.output[0] for node in island_nodes(model)}
        self._reach_back()
        self.nodes: list[NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.extra: list[TensorProto] = []

    def _reach_back(self) -> None:
        """Elementwise arithmetic that only feeds islands, such as an exponential's argument, belongs to them."""
        consumers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.graph.node:
            for name in node.input:
                consumers[name].append(node)
        for node in reversed(self.graph.node):
            users = [user for name in node.output for user in consumers[name]]
            if node.op_type in _ELEMENTWISE and users and all(user.output[0] in self.islands for user in users):
                self.islands.add(node.output[0])

    def wanted(self, node: NodeProto) -> int:
        """The type a node computes in."""
        if node.output[0] in self.islands:
            return FLOAT
        variable = [n for n in node.input if n in self.floating and n not in self.constants]
        found = [self.types[n] for n in variable]
        if node.op_type in _MOVING:
            return HALF if HALF in found or not found else FLOAT
        if node.op_type in _ELEMENTWISE:
            return FLOAT if FLOAT in found else HALF
        return HALF

    def value(self, name: str, kind: int) -> str:
        """The name of a value in a type, cast if need be."""
        if name not in self.floating or self.types[name] == kind:
            return name
        if (name, kind) not in self.casts:
            cast = f"{name}_{'half' if kind == HALF else 'single'}"
            if name in self.constants and kind == HALF:
                values = numpy_helper.to_array(self.constants[name])
                if np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0) > 65504:
                    raise BundleError(f"{self.graph.name}: a weight exceeds fp16's range: build with --precision fp32")
                self.extra.append(numpy_helper.from_array(values.astype(np.float16), cast))
            else:
                self.nodes.append(helper.make_node("Cast", [name], [cast], name=f"cast_{cast}", to=kind))
            self.casts[name, kind] = cast
        return self.casts[name, kind]

    def place(self, node: NodeProto) -> None:
        """Append a node with its operands in the type it computes in."""
        if node.op_type in ("Constant", "ConstantOfShape", "Cast", "Shape"):
            self.nodes.append(node)
            return
        kind = self.wanted(node)
        node.input[:] = [self.value(name, kind) for name in node.input]
        for name in node.output:
            if name in self.floating:
                self.types[name] = kind
        self.nodes.append(node)


def to_half(model: ModelProto) -> ModelProto:
    """A copy of an fp32 graph with half-precision weights, ports as `port_type` says, and fp32 islands.

    Raises:
        BundleError: a weight does not fit into fp16.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    model.graph.ClearField("value_info")
    graph = model.graph
    inner = {port.name: f"{port.name}_computed" for port in graph.output}
    types = element_types(model)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inner.get(name, name) for name in names]
    typing = _Typing(model, types | {renamed: types[name] for name, renamed in inner.items()})
    for port in graph.input:
        if port.name in typing.floating:
            port.type.tensor_type.elem_type = typing.types[port.name] = port_type(port.name)
    for node in list(graph.node):
        typing.place(node)
    for port in graph.output:
        kind = port_type(port.name)
        source = typing.value(inner[port.name], kind)
        typing.nodes.append(helper.make_node("Identity", [source], [port.name], name=f"port_{port.name}"))
        port.type.tensor_type.elem_type = kind
    used = {name for node in typing.nodes for name in node.input}
    initializers = [t for t in (*graph.initializer, *typing.extra) if t.name in used]
    graph.ClearField("node")
    graph.node.extend(typing.nodes)
    graph.ClearField("initializer")
    graph.initializer.extend(initializers)
    onnx.checker.check_model(model, full_check=True)
    return model
