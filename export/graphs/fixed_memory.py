"""The graphs for a GPU: a memory of fixed capacity with a validity mask, every slot of every object in one call.

A free memory axis is slow inside a TensorRT attention engine, so the memory has all its slots from the start; `valid`
says which hold a frame. The exponentials are shifted, exp((q.k - 1) / tau): queries and keys have unit length, so that
none exceeds one. Keys are stored times sqrt(1 / tau), which makes a logit one product, and two constant columns shift
it within: the largest logits are near zero, where half precision is finest. Otherwise the formulas are those of
`graphs`.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.network import JointNet
from ...model.transformer import Attention, to_tokens
from ...runtime.manifest import Port
from .graph import Graph
from .grown_memory import DecoderGraph, FewShotResidualGraph, FewShotStepGraph, LabelEncoderGraph, encode

PADDING = 8
"""Columns that make room for a constant one: tensor cores take widths in steps of eight."""
_LEAST = 1e-30
"""Less than any affinity; keeps the shares of slots without one from becoming 0 / 0."""


def widened(x: Tensor, value: float) -> Tensor:
    """(..., k) -> (..., k + PADDING): one column of a constant, then zeros."""
    return F.pad(F.pad(x, (0, 1), value=value), (0, PADDING - 1))


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

    headroom: ClassVar[float] = 0.0
    """Natural logarithm of the largest affinity."""

    def __init__(self, net: JointNet, capacity: int) -> None:
        super().__init__(net)
        self.capacity = capacity
        self.key_scale = math.sqrt(1 / net.config.temperature)
        shift = 1 / net.config.temperature - self.headroom
        self.columns = (math.sqrt(abs(shift)), -math.copysign(math.sqrt(abs(shift)), shift))

    def port(self, name: str) -> Port:
        """As in `Graph`, the number of slots fixed; `NAME_all` is a bank with a slot per frame."""
        stem = name.removesuffix("_next")
        if stem in self._BANKS:
            B, *shape = super().port(self._BANKS[stem]).shape
            return Port(name=name, shape=(B, self.capacity, *shape))
        if name in ("valid", "slot"):
            return Port(name=name, shape=("B", self.capacity))
        port = super().port(name)
        return Port(name=name, shape=tuple(self.capacity if n == "N" else n for n in port.shape))

    def shifted(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled keys (..., n, c), (..., m, c), widened so that their products are (q.k - 1) / tau + headroom."""
        return widened(query, self.columns[0]), widened(key, self.columns[1])

    def affinity(self, query: Tensor, key: Tensor) -> Tensor:
        """exp((q.k - 1) / tau), at most one: scaled keys (..., n, c), (..., m, c) -> (..., n, m)."""
        query, key = self.shifted(query, key)
        return torch.exp(query @ key.transpose(-1, -2))

    def attended(self, affinity: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of attention: (..., n, m) and (..., m, d) -> (..., n, d), (..., n, 1).

        The product is of each row's shares, which sum to one: in half precision nothing overflows, and affinities
        count however small all of them are.
        """
        D = affinity.sum(-1, keepdim=True)
        return D * ((affinity / D.clamp(min=_LEAST)) @ values), D

    def projected(self, attention: Attention, tokens: Tensor) -> Tensor:
        """Phi or psi: (..., n, C) -> scaled keys (..., n, c)."""
        return self.key_scale * attention.project(tokens)

    def encoded(self, z: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """Eq. 3 (or 4) and psi: tokens (..., n, C) -> scaled keys (..., n, c)."""
        return self.key_scale * encode(self.net, z, C, D)


def held(mask: Tensor, bank: Tensor) -> Tensor:
    """The bank where a slot's mask (B, N) is one, zeros elsewhere, whatever lies there: (B, N, ...)."""
    return torch.where(mask[:, :, None, None] > 0.5, bank, torch.zeros_like(bank))


class DirectBackboneGraph(Graph):
    """Crop -> layers 1 to 4 and both adjusted features, by plain convolutions."""

    name = "backbone"
    takes = "crop"
    gives = "layer1 layer2 layer3 layer4 x_tra x_ind"

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        features = self.net.extract(crop)
        return *features.layers, to_tokens(features.x_tra), to_tokens(features.x_ind)


class ShiftedQueryGraph(FixedMemoryGraph):
    """Eq. 4 of the search frame, and what the frame brings along if it enters the memory later."""

    name = "transformer_query"
    takes = "x_tra"
    gives = "query key C D"

    def forward(self, x_tra: Tensor) -> tuple[Tensor, ...]:
        key = self.projected(self.net.transformer.self_attention, x_tra)
        C, D = self.attended(self.affinity(key, key), x_tra)
        return self.encoded(x_tra, C, D), key, C, D


class MemoryUpdateGraph(FixedMemoryGraph):
    """A frame enters slot `slot` (one-hot): what it held leaves all other slots' attention, the new terms enter.

    `valid` (0 or 1) counts the slots that held a frame before. Contents of other slots do not matter.
    """

    name = "memory_update"
    takes = "z_all key_all C_all D_all valid slot x_tra key C D"
    gives = "z_all_next key_all_next C_all_next D_all_next key_cross_all"

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
        C_term, D_term, C, D = self.terms(z_all, key_all, valid, slot, x_tra, key, C, D)
        z_all, key_all = (torch.where(chosen, new[:, None], bank) for new, bank in ((x_tra, z_all), (key, key_all)))
        C_all, D_all = (
            torch.where(chosen, new[:, None], bank + term)
            for new, bank, term in ((C, C_all, C_term), (D, D_all, D_term))
        )
        return z_all, key_all, C_all, D_all, self.encoded(z_all, C_all, D_all)

    def renew(self, *values: Tensor) -> Tensor:
        """What `forward` takes, renewed in place; gives the keys of all slots."""
        z_all, key_all, C_all, D_all, valid, slot, x_tra, key, C, D = values
        C_term, D_term, C, D = self.terms(z_all, key_all, valid, slot, x_tra, key, C, D)
        C_all.add_(C_term)
        D_all.add_(D_term)
        where = (torch.arange(slot.shape[0], device=slot.device), slot.argmax(1))
        for bank, value in ((z_all, x_tra), (key_all, key), (C_all, C), (D_all, D)):
            bank.index_put_(where, value)
        return self.encoded(z_all, C_all, D_all)

    def terms(
        self,
        z_all: Tensor,
        key_all: Tensor,
        valid: Tensor,
        slot: Tensor,
        x_tra: Tensor,
        key: Tensor,
        C: Tensor,
        D: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is added to C and D of all slots, and the entering frame's own C and D."""
        others, replaced = valid * (1 - slot), valid * slot
        z_old, key_old = (held(replaced, bank).sum(1, keepdim=True) for bank in (z_all, key_all))
        entering = held(others, self.affinity(key_all, key[:, None]))
        # Without a frame that leaves, its terms are not wanted although exp(-1 / tau) is not zero.
        leaving = held(others * replaced.sum(1, keepdim=True), self.affinity(key_all, key_old))
        C_in, D_in = self.attended(entering, x_tra[:, None])
        C_out, D_out = self.attended(leaving, z_old)
        C_own, D_own = self.attended(entering.transpose(2, 3), held(others, z_all))
        return C_in - C_out, D_in - D_out, C + C_own.sum(1), D + D_own.sum(1)


class MemoryReadAllGraph(FixedMemoryGraph):
    """Eq. 5 over all valid slots: E*_tra."""

    name = "memory_read"
    takes = "query key_cross_all E_tra_all valid"
    gives = "E_tra_star"

    def forward(self, query: Tensor, key_cross_all: Tensor, E_tra_all: Tensor, valid: Tensor) -> Tensor:
        affinity = held(valid, self.affinity(query[:, None], held(valid, key_cross_all)))
        numerator, denominator = self.attended(affinity, held(valid, E_tra_all))
        return numerator.sum(1) / denominator.sum(1)


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
