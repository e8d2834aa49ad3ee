"""The graphs for a GPU: a memory of fixed capacity with a validity mask, every slot of every object in one call.

A free memory axis is slow inside a TensorRT attention engine, so the memory has all its slots from the start; `valid`
says which hold a frame. The exponentials are shifted, exp((q.k - 1) / tau): queries and keys have unit length, so that
none exceeds one and half precision holds what they multiply. Otherwise the formulas are those of `graphs`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..model.network import JointNet
from ..model.transformer import to_tokens
from ..runtime.device_engine import DType
from .graph import Graph, Port
from .graphs import DecoderGraph, FewShotResidualGraph, FewShotStepGraph, LabelEncoderGraph, encode

_SINGLE_PORTS = frozenset(
    [
        *("crop", "mask", "logits", "valid", "slot", "sample_weights", "omega", "weights", "residual"),
        *("E_ind", "W", "E_ind_all", "W_all", "C", "D"),
    ]
)


def port_dtype(name: str, precision: str) -> DType:
    """The element type of a port in a bundle of "fp16" or "fp32".

    Frames, weights, the few-shot learner's residual and filter, and all sums carried on are fp32 in either.
    """
    stem = name.removesuffix("_next")
    if stem.endswith("_all") and stem not in _SINGLE_PORTS:
        stem = stem.removesuffix("_all")
    return "float32" if precision == "fp32" or stem in _SINGLE_PORTS else "float16"


class FixedMemoryGraph(Graph):
    """A graph over `capacity` memory slots; B counts objects."""

    _BANKS: ClassVar[dict[str, str]] = {
        "z_all": "z",
        "key_all": "key",
        "C_all": "C",
        "D_all": "D",
        "key_cross_all": "key_cross",
        "E_tra_all": "E_tra",
    }

    def __init__(self, net: JointNet, capacity: int) -> None:
        super().__init__(net)
        self.capacity = capacity

    def port(self, name: str) -> Port:
        """As in `Graph`, the number of slots fixed; `NAME_all` is a bank with a slot per frame."""
        stem = name.removesuffix("_next")
        if stem in self._BANKS:
            B, *shape = super().port(self._BANKS[stem]).shape
            return Port(name, (B, self.capacity, *shape))
        if name in ("valid", "slot"):
            return Port(name, ("B", self.capacity))
        port = super().port(name)
        return Port(name, tuple(self.capacity if n == "N" else n for n in port.shape))

    def affinity(self, query: Tensor, key: Tensor) -> Tensor:
        """exp((q.k - 1) / tau), at most one: (..., n, c), (..., m, c) unit vectors -> (..., n, m)."""
        return torch.exp((query @ key.transpose(-1, -2) - 1) / self.config.temperature)


def held(mask: Tensor, bank: Tensor) -> Tensor:
    """The bank where a slot's mask (B, N) is one, zeros elsewhere, whatever lies there: (B, N, ...)."""
    return torch.where(mask[:, :, None, None] > 0.5, bank, torch.zeros_like(bank))


class DirectBackboneGraph(Graph):
    """Crop -> layers 1 to 4 and both adjusted features, by plain convolutions."""

    name = "backbone"

    def inputs(self) -> list[Port]:
        return self.ports("crop")

    def outputs(self) -> list[Port]:
        return self.ports("layer1 layer2 layer3 layer4 x_tra x_ind")

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        features = self.net.extract(crop)
        return *features.layers, to_tokens(features.x_tra), to_tokens(features.x_ind)


class ShiftedQueryGraph(FixedMemoryGraph):
    """Eq. 4 of the search frame, and what the frame brings along if it enters the memory later."""

    name = "transformer_query"

    def inputs(self) -> list[Port]:
        return self.ports("x_tra")

    def outputs(self) -> list[Port]:
        return self.ports("query key C D")

    def forward(self, x_tra: Tensor) -> tuple[Tensor, ...]:
        key = self.net.transformer.self_attention.project(x_tra)
        affinity = self.affinity(key, key)
        C, D = affinity @ x_tra, affinity.sum(-1, keepdim=True)
        return encode(self.net, x_tra, C, D), key, C, D


class MemoryUpdateGraph(FixedMemoryGraph):
    """A frame enters slot `slot` (one-hot): what it held leaves all other slots' attention, the new terms enter.

    `valid` (0 or 1) counts the slots that held a frame before. Contents of other slots do not matter.
    """

    name = "memory_update"

    def inputs(self) -> list[Port]:
        return self.ports("z_all key_all C_all D_all valid slot x_tra key C D")

    def outputs(self) -> list[Port]:
        return self.ports("z_all_next key_all_next C_all_next D_all_next key_cross_all")

    def forward(
        self,
        z_all: Tensor,
        key_all: Tensor,
        C_all: Tensor,
        D_all: Tensor,
        valid: Tensor,
        slot: Tensor,
        x_tra: Tensor,
        key: Tensor,
        C: Tensor,
        D: Tensor,
    ) -> tuple[Tensor, ...]:
        chosen = slot[:, :, None, None] > 0.5
        others, replaced = valid * (1 - slot), valid * slot
        z_old, key_old = (held(replaced, bank).sum(1, keepdim=True) for bank in (z_all, key_all))
        entering = held(others, self.affinity(key_all, key[:, None]))
        # Without a frame that leaves, its terms are not wanted although exp(-1 / tau) is not zero.
        leaving = held(others * replaced.sum(1, keepdim=True), self.affinity(key_all, key_old))
        C_all = C_all + entering @ x_tra[:, None] - leaving @ z_old
        D_all = D_all + entering.sum(-1, keepdim=True) - leaving.sum(-1, keepdim=True)
        C = C + (entering.transpose(2, 3) @ held(others, z_all)).sum(1)
        D = D + entering.sum(2).sum(1)[..., None]
        z_all, key_all = (torch.where(chosen, new[:, None], bank) for new, bank in ((x_tra, z_all), (key, key_all)))
        C_all, D_all = (torch.where(chosen, new[:, None], bank) for new, bank in ((C, C_all), (D, D_all)))
        keys = encode(self.net, z_all.flatten(0, 1), C_all.flatten(0, 1), D_all.flatten(0, 1))
        return z_all, key_all, C_all, D_all, keys.unflatten(0, (-1, self.capacity))


class MemoryReadAllGraph(FixedMemoryGraph):
    """Eq. 5 over all valid slots: E*_tra."""

    name = "memory_read"

    def inputs(self) -> list[Port]:
        return self.ports("query key_cross_all E_tra_all valid")

    def outputs(self) -> list[Port]:
        return self.ports("E_tra_star")

    def forward(self, query: Tensor, key_cross_all: Tensor, E_tra_all: Tensor, valid: Tensor) -> Tensor:
        affinity = held(valid, self.affinity(query[:, None], held(valid, key_cross_all)))
        numerator = (affinity @ held(valid, E_tra_all)).sum(1)
        return numerator / affinity.sum(-1, keepdim=True).sum(1)


class FixedResidualGraph(FixedMemoryGraph, FewShotResidualGraph):
    """Eq. 6 at the filter that the learner starts from; samples of weight zero do not count."""


class FixedStepGraph(FixedMemoryGraph, FewShotStepGraph):
    """One step of steepest descent over all slots."""


def gpu_graphs(net: JointNet, capacity: int) -> list[Graph]:
    """Every graph of a TensorRT bundle."""
    over_memory = (ShiftedQueryGraph, MemoryUpdateGraph, MemoryReadAllGraph, FixedResidualGraph, FixedStepGraph)
    return [
        DirectBackboneGraph(net),
        LabelEncoderGraph(net),
        *(kind(net, capacity) for kind in over_memory),
        DecoderGraph(net),
    ]
