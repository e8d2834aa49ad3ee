"""The PyTorch network as a backend: its graphs as `DeviceEngine`s, nothing to build.

With fp16, convolutions run in half precision on channels-last memory and the memory's products as `half_memory` says;
norms, exponentials, sums and whatever is carried from frame to frame stay in fp32. Compiled, Inductor makes one
function of each graph: what follows a convolution or a product becomes part of it, or one kernel.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ....export.checkpoint.network import bundle_network
from ....export.graphs.fixed_memory import (
    DirectBackboneGraph,
    FixedMemoryGraph,
    FixedResidualGraph,
    FixedStepGraph,
    MemoryReadAllGraph,
    MemoryUpdateGraph,
    ShiftedQueryGraph,
)
from ....export.graphs.graph import Graph
from ....export.graphs.grown_memory import DecoderGraph, LabelEncoderGraph
from ....export.graphs.half_memory import (
    HalfMemoryRead,
    HalfMemoryUpdate,
    HalfQuery,
    HalfResidual,
    HalfStep,
    apply_half_filter,
)
from ....export.graphs.half_precision import port_dtype, single_convolutions
from ....model.network import JointNet
from ....model.transformer import to_tokens
from ...bundle import Bundle
from ...manifest import Port
from ...settings import Settings
from ..frame_work import compiled as compile_function
from .epilogues import channels_last_half, fuse_epilogues
from .functions import BoundFunction, tensor_of
from .protocol import BoundGraph, DeviceArray, DeviceEngine, check_arrays

Precision = Literal["fp32", "fp16"]


class TorchEngine:
    """One graph; see `device_engine.DeviceEngine`. Computes on torch's current stream."""

    max_batch: int | None = None
    capturable = True
    in_place = True

    def __init__(self, graph: Graph, precision: Precision, *, compiled: bool = False) -> None:
        self.graph = graph
        self._call: Callable[..., Any] = graph
        self._renew: Callable[..., Any] | None = graph.renew if isinstance(graph, MemoryUpdateGraph) else None
        if compiled:
            self._call = compile_function(graph, dynamic=None)
            self._renew = self._renew and compile_function(self._renew, dynamic=None)
        ports = (*graph.inputs(), *graph.outputs())
        self.ports: Mapping[str, Port] = {
            port.name: port.model_copy(update={"dtype": port_dtype(port.name, precision)}) for port in ports
        }

    def bind(self, arrays: Mapping[str, DeviceArray]) -> BoundGraph:
        """Arrays whose owners are torch tensors."""
        check_arrays(self.graph.name, self.ports.values(), arrays)
        inputs, outputs = (
            [tensor_of(port.name, arrays[port.name]) for port in ports]
            for ports in (self.graph.inputs(), self.graph.outputs())
        )
        if self._renew is not None and outputs[0].data_ptr() == inputs[0].data_ptr():
            # The banks are renewed where they lie.
            return BoundFunction(self._renew, inputs, outputs[-1:])
        return BoundFunction(self._call, inputs, outputs)


class HalfBackbone(DirectBackboneGraph):
    """Crop -> layers and features; the L2 norm, whose squares overflow fp16, in fp32."""

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        net = self.net
        layers = net.backbone(crop)
        x_ind = net.adjust_ind[1](net.adjust_ind[0](layers[2]).float())
        return *layers, to_tokens(net.adjust_tra(layers[2])), to_tokens(x_ind)


class HalfDecoder(DecoderGraph):
    """Eq. 7 on channels-last memory."""

    def __init__(self, net: JointNet) -> None:
        super().__init__(net)
        self.projection.half()

    def encodings(self, E_tra_star: Tensor, x_ind: Tensor, omega: Tensor) -> Tensor:
        """E*_tra + E*_ind, summed in fp32, (B, D, h, w) fp16."""
        size = self.config.feature_size
        E_ind_star = apply_half_filter(x_ind[:, None], omega, size, self.config.filter_size)[:, :, 0]
        encodings = (E_tra_star.transpose(1, 2) + E_ind_star).unflatten(2, size).half()
        return encodings.contiguous(memory_format=torch.channels_last)


def fused(net: JointNet) -> JointNet:
    """A copy in eval mode whose normalisations are part of the convolutions before them."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        for (name, first), (norm_name, second) in itertools.pairwise(list(module.named_children())):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(first, second))
                setattr(module, norm_name, nn.Identity())
    return net.requires_grad_(False)


def halve_convolutions(net: JointNet) -> None:
    """Convolutions to fp16 and channels-last, in place, but for those at the trunk's entrance."""
    trunk = [m for m in net.backbone.modules() if isinstance(m, nn.Conv2d)]
    single = trunk[: single_convolutions((conv.in_channels // conv.groups, conv.groups) for conv in trunk)]
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
            if module not in single:
                module.half().register_forward_pre_hook(_to_half)


def _to_half(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    return channels_last_half(inputs[0])


_GRAPHS: dict[str, tuple[tuple[type[Graph], ...], tuple[type[FixedMemoryGraph], ...]]] = {
    "fp32": (
        (DirectBackboneGraph, LabelEncoderGraph, DecoderGraph),
        (ShiftedQueryGraph, MemoryUpdateGraph, MemoryReadAllGraph, FixedResidualGraph, FixedStepGraph),
    ),
    "fp16": (
        (HalfBackbone, LabelEncoderGraph, HalfDecoder),
        (HalfQuery, HalfMemoryUpdate, HalfMemoryRead, HalfResidual, HalfStep),
    ),
}


def torch_engines(
    net: JointNet,
    capacity: int,
    precision: Precision,
    device: torch.device | str,
    *,
    compiled: bool = False,
    epilogues: bool = True,
) -> dict[str, DeviceEngine]:
    """Every graph of a network, on a device, with so many memory slots.

    Args:
        net: on any device; it is copied.
        capacity: slots of the memory.
        precision: "fp32" or "fp16".
        device: "cuda", "cpu", ...
        compiled: whether Inductor compiles every graph, at its first call.
        epilogues: whether fp16 convolutions take their ReLUs along; see `epilogues`.
    """
    net = fused(net).to(device)
    if precision == "fp16":
        halve_convolutions(net)
        if epilogues:
            fuse_epilogues(net)
    ends, over_memory = _GRAPHS[precision]
    graphs = [*(kind(net) for kind in ends), *(kind(net, capacity) for kind in over_memory)]
    return {graph.name: TorchEngine(graph.eval().to(device), precision, compiled=compiled) for graph in graphs}


def load_engines(
    bundle: Bundle, settings: Settings, *, device: str, precision: str, compiled: bool = False
) -> dict[str, DeviceEngine]:
    """The engines of a bundle's weights.

    Args:
        bundle: one that holds its weights.
        settings: memory.
        device: "cuda", "cuda:1", ..., "cpu".
        precision: "fp16" or "fp32".
        compiled: whether Inductor compiles them, each at its first call.

    Raises:
        BundleError: the bundle holds no weights.
    """
    net = bundle_network(bundle)
    return torch_engines(net, settings.memory, precision, device, compiled=compiled)  # type: ignore[arg-type]
