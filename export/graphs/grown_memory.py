"""The graphs of a bundle: which parts of the network they hold, what goes in and what comes out.

Feature maps that only attention and the few-shot learner read travel as tokens (h*w, channels); B counts objects.
The memory side of the transformer is the incremental form of eq. 2 and 3: for every memory token the numerator
C = sum_j exp((q.k_j - 1) / tau) z_j and the denominator D of its attention are kept, so that a frame that enters or
leaves the memory costs one pass over the others. Queries and keys have unit length and tau = 1/30, so that
exp(q.k / tau) lies between e^-30 and e^30: fp32 holds it without the shift that a softmax needs, and e^(-1 / tau) is
multiplied in later, where it costs nothing.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...model.network import JointNet
from ...model.target_model import apply_filter, descent_step, feature_scale, residuals
from ...model.transformer import to_tokens
from .graph import Graph
from .projection import FoldedProjection
from .winograd import DirectConv, WinogradConv


class BackboneGraph(Graph):
    """Crop -> layers 1 to 4 and both adjusted features."""

    name = "backbone"
    takes = "crop"
    gives = "layer1 layer2 layer3 layer4 x_tra x_ind"
    convolution: ClassVar[type[WinogradConv] | type[DirectConv]] = WinogradConv

    def __init__(self, net: JointNet) -> None:
        super().__init__(net)
        adjusters = (net.adjust_tra[0], net.adjust_ind[0])
        self.adjust = self.convolution([conv.weight for conv in adjusters if isinstance(conv, nn.Conv2d)])

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        layers = self.net.backbone(crop)
        x_tra, x_ind = self.adjust(layers[2]).split(self.config.feature_channels, dim=-1)
        # InstanceL2Norm on tokens.
        energy = column_sums(x_ind * x_ind).sum(-1, keepdim=True)
        scale = feature_scale(self.config.feature_channels, self.config.filter_size)
        size = self.cells * self.config.feature_channels
        return *layers, x_tra, x_ind * (scale * torch.sqrt(size / (energy + 1e-5)))


class PlainBackboneGraph(BackboneGraph):
    """The same with ordinary convolutions throughout, so that all of them can be quantised."""

    convolution = DirectConv


class LabelEncoderGraph(Graph):
    """Mask crop -> E_ind, W, E_tra."""

    name = "label_encoder"
    takes = "mask"
    gives = "E_ind W E_tra"

    def forward(self, mask: Tensor) -> tuple[Tensor, ...]:
        E_ind, W, E_tra = (to_tokens(encoding) for encoding in self.net.label_encoder(mask))
        return E_ind, W, E_tra


class AttentionGraph(Graph):
    """What the transformer's graphs share: exponentials of the logits, and sums over them in units of e^(1 / tau)."""

    def __init__(self, net: JointNet) -> None:
        super().__init__(net)
        self.unit = math.exp(-1 / net.config.temperature)

    def affinity(self, query: Tensor, key: Tensor) -> Tensor:
        """exp(q.k / tau): (B, n, c), (B, m, c) unit vectors -> (B, n, m)."""
        return torch.exp((query / self.config.temperature) @ key.transpose(1, 2))


class QueryGraph(AttentionGraph):
    """Eq. 4 of the search frame, and what the frame brings along if it enters the memory later.

    C and D are the frame's attention to itself, unnormalised; key is phi, query is psi.
    """

    name = "transformer_query"
    takes = "x_tra"
    gives = "query key C D"

    def forward(self, x_tra: Tensor) -> tuple[Tensor, ...]:
        transformer = self.net.transformer
        key = transformer.self_attention.project(x_tra)
        affinity = self.affinity(key, key)
        C, D = self.unit * (affinity @ x_tra), self.unit * affinity.sum(-1, keepdim=True)
        return encode(self.net, x_tra, C, D), key, C, D


class MemoryAddGraph(AttentionGraph):
    """A frame enters: its terms go to one other memory frame's C and D, and that frame's to its own."""

    name = "memory_add"
    takes = "z key C D z_new key_new C_new D_new"
    gives = "C_next D_next C_new_next D_new_next key_cross"

    def forward(
        self, z: Tensor, key: Tensor, C: Tensor, D: Tensor, z_new: Tensor, key_new: Tensor, C_new: Tensor, D_new: Tensor
    ) -> tuple[Tensor, ...]:
        C_term, D_term, C_new_term, D_new_term = self.terms(z, key, z_new, key_new)
        C, D = C + C_term, D + D_term
        return C, D, C_new + C_new_term, D_new + D_new_term, encode(self.net, z, C, D)

    def terms(self, z: Tensor, key: Tensor, z_new: Tensor, key_new: Tensor) -> tuple[Tensor, ...]:
        """What the new frame adds to the other's C and D, and the other frame to the new one's."""
        affinity = self.affinity(key, key_new)
        return (
            self.unit * (affinity @ z_new),
            self.unit * affinity.sum(-1, keepdim=True),
            self.unit * (affinity.transpose(1, 2) @ z),
            self.unit * column_sums(affinity).transpose(1, 2),
        )


class MemoryReplaceGraph(MemoryAddGraph):
    """As `memory_add`, the terms of the frame that leaves taken out of the other frame's C and D first."""

    name = "memory_replace"
    takes = "z key C D z_new key_new C_new D_new z_old key_old"

    def forward(  # type: ignore[override]
        self,
        z: Tensor,
        key: Tensor,
        C: Tensor,
        D: Tensor,
        z_new: Tensor,
        key_new: Tensor,
        C_new: Tensor,
        D_new: Tensor,
        z_old: Tensor,
        key_old: Tensor,
    ) -> tuple[Tensor, ...]:
        affinity = self.affinity(key, key_old)
        C = C - self.unit * (affinity @ z_old)
        D = D - self.unit * affinity.sum(-1, keepdim=True)
        return super().forward(z, key, C, D, z_new, key_new, C_new, D_new)


class MemorySwapGraph(MemoryAddGraph):
    """As `memory_replace`, the terms that leave given instead of computed; the new frame's own terms are put out."""

    name = "memory_swap"
    takes = "z key C D z_new key_new C_new D_new C_old D_old"
    gives = "C_next D_next C_new_next D_new_next C_term D_term key_cross"

    def forward(  # type: ignore[override]
        self,
        z: Tensor,
        key: Tensor,
        C: Tensor,
        D: Tensor,
        z_new: Tensor,
        key_new: Tensor,
        C_new: Tensor,
        D_new: Tensor,
        C_old: Tensor,
        D_old: Tensor,
    ) -> tuple[Tensor, ...]:
        C_term, D_term, C_new_term, D_new_term = self.terms(z, key, z_new, key_new)
        C, D = C - C_old + C_term, D - D_old + D_term
        key_cross = encode(self.net, z, C, D)
        return C, D, C_new + C_new_term, D_new + D_new_term, C_new_term, D_new_term, key_cross


class MemoryEncodeGraph(Graph):
    """Eq. 3 and psi: the keys that queries of eq. 5 meet, of one memory frame."""

    name = "memory_encode"
    takes = "z C D"
    gives = "key_cross"

    def forward(self, z: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return encode(self.net, z, C, D)


class MemoryReadGraph(AttentionGraph):
    """Eq. 5 over one memory frame, unnormalised."""

    name = "memory_read"
    takes = "query key_cross E_tra"
    gives = "numerator denominator"

    def forward(self, query: Tensor, key_cross: Tensor, E_tra: Tensor) -> tuple[Tensor, ...]:
        affinity = self.affinity(query, key_cross)
        return self.unit * (affinity @ E_tra), self.unit * affinity.sum(-1, keepdim=True)


class MemoryReadSeveralGraph(MemoryReadGraph):
    """As `memory_read`, for objects that have one memory and look at one crop: their values side by side."""

    name = "memory_read_several"
    takes = "query key_cross E_tra_several"
    gives = "numerators denominator"


class FewShotResidualGraph(Graph):
    """Eq. 6 at the filter that the few-shot learner starts from; omega is a matrix (K*K*D, C), taps before channels."""

    name = "few_shot_residual"
    takes = "z_ind E_ind_all W_all sample_weights omega"
    gives = "weights residual"

    def forward(
        self, z_ind: Tensor, E_ind: Tensor, W: Tensor, sample_weights: Tensor, omega: Tensor
    ) -> tuple[Tensor, ...]:
        size = self.config.feature_size
        weights = W * sample_weights[:, :, None, None]
        E, weights = (t.permute(0, 3, 1, 2).unflatten(3, size) for t in (E_ind, weights))
        residual = residuals(z_ind.unflatten(2, size), E, weights, omega, self.config.filter_size)
        return weights.flatten(3), residual.flatten(3)


class FewShotStepGraph(Graph):
    """One step of steepest descent."""

    name = "few_shot_step"
    takes = "z_ind weights omega residual"
    gives = "omega_next residual_next"

    def forward(self, z_ind: Tensor, weights: Tensor, omega: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
        size = self.config.feature_size
        z, W, r = z_ind.unflatten(2, size), weights.unflatten(3, size), residual.unflatten(3, size)
        reg = self.net.target_model.filter_reg
        omega, r = descent_step(z, W, reg, omega, r, self.config.filter_size)
        return omega, r.flatten(3)


class DecoderGraph(Graph):
    """Eq. 7, the target model included: E*_tra + T_omega(X) and the trunk's layers -> logits."""

    name = "decoder"
    takes = "E_tra_star x_ind omega layer1 layer2 layer3 layer4"
    gives = "logits"

    def __init__(self, net: JointNet) -> None:
        super().__init__(net)
        height, width = net.config.crop_size
        self.projection = FoldedProjection(net.decoder.project, height // 4, width // 4)

    def forward(
        self,
        E_tra_star: Tensor,
        x_ind: Tensor,
        omega: Tensor,
        layer1: Tensor,
        layer2: Tensor,
        layer3: Tensor,
        layer4: Tensor,
    ) -> Tensor:
        encodings = self.encodings(E_tra_star, x_ind, omega)
        return self.projection(self.net.decoder.refine(encodings, [layer1, layer2, layer3, layer4])[1])

    def encodings(self, E_tra_star: Tensor, x_ind: Tensor, omega: Tensor) -> Tensor:
        """E*_tra + E*_ind, (B, D, h, w)."""
        size = self.config.feature_size
        E_ind_star = apply_filter(x_ind.unflatten(1, size).unsqueeze(1), omega, self.config.filter_size)[:, :, 0]
        return E_tra_star.unflatten(1, size).permute(0, 3, 1, 2) + E_ind_star


def column_sums(x: Tensor) -> Tensor:
    """(..., n, m) -> (..., 1, m), as a product: reductions over an inner axis are slow in inference engines."""
    return torch.ones(1, 1, x.shape[-2], device=x.device) @ x


def encode(net: JointNet, z: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Eq. 3 (or 4) and psi from the accumulated attention: tokens (..., n, C) -> unit keys (..., n, key channels)."""
    tokens = C / D + z
    tokens = tokens - column_sums(tokens) / tokens.shape[-2]
    variance = column_sums(tokens * tokens) / tokens.shape[-2]
    return net.transformer.cross_attention.project(tokens * torch.rsqrt(variance + 1e-5))


GRAPHS: tuple[type[Graph], ...] = (
    BackboneGraph,
    LabelEncoderGraph,
    QueryGraph,
    MemoryAddGraph,
    MemoryReplaceGraph,
    MemorySwapGraph,
    MemoryEncodeGraph,
    MemoryReadGraph,
    MemoryReadSeveralGraph,
    FewShotResidualGraph,
    FewShotStepGraph,
    DecoderGraph,
)
"""Every graph of a bundle."""
