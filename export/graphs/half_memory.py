"""Memory and few-shot learner in half precision on tensor cores: fp16 operands, sums, exponentials and carries in fp32.

What is carried between frames, C and D, adds and later subtracts the same terms. They cancel because both times the
operands are the same: tokens z and keys are rounded once, when a frame is seen, and stored so. Keys are stored times
sqrt(1 / tau), which makes a logit one product, and two constant columns shift it: exp((q.k - 1) / tau + headroom) stays
below fp16's largest number and well above its smallest; the common factor cancels in C / D.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...model.network import JointNet
from ...model.target_model import gather_taps, scatter_taps
from ...model.transformer import Attention, instance_norm
from .fixed_memory import (
    PADDING,
    FixedMemoryGraph,
    FixedResidualGraph,
    FixedStepGraph,
    MemoryReadAllGraph,
    MemoryUpdateGraph,
    ShiftedQueryGraph,
    held,
    widened,
)


def half_product(a: Tensor, b: Tensor) -> Tensor:
    """fp16 (B, n, k) @ (B, k, m) -> fp32 (B, n, m), as tensor cores sum it; on the CPU the same products in fp32."""
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def scaled_half(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 (B, n, k) -> fp16 with a largest element of one, and what that was divided by, (B, 1, 1)."""
    largest = x.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)
    return (x / largest).half(), largest


def joined(x: Tensor, columns: Tensor) -> Tensor:
    """(..., k) -> (..., k + PADDING): the same columns after every row."""
    return torch.cat((x, columns.expand(*x.shape[:-1], -1)), -1)


def split(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Products with `widened` values, (..., k + PADDING) -> those with the values, and with the constant (..., 1)."""
    return sums[..., :-PADDING], sums[..., -PADDING : 1 - PADDING]


class HalfMemory(FixedMemoryGraph):
    """What the graphs over the transformer's memory share."""

    # e^11 would reach fp16's limit.
    headroom = 10.0

    def __init__(self, net: JointNet, capacity: int) -> None:
        super().__init__(net, capacity)
        self.query_columns: Tensor
        self.key_columns: Tensor
        self.one: Tensor
        for name, value in (("query_columns", self.columns[0]), ("key_columns", self.columns[1]), ("one", 1.0)):
            self.register_buffer(name, widened(torch.empty(0), value).half(), persistent=False)

    def shifted(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """As in `FixedMemoryGraph`, in one pass each."""
        return joined(query, self.query_columns), joined(key, self.key_columns)

    def affinity(self, query: Tensor, key: Tensor) -> Tensor:
        """exp((q.k - 1) / tau + headroom) in fp16: scaled keys (B, n, c), (B, m, c) -> (B, n, m)."""
        query, key = self.shifted(query, key)
        logits = half_product(query, key.transpose(1, 2))
        return torch.exp(logits, out=torch.empty_like(logits, dtype=torch.float16))

    def attended(self, affinity: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of attention in one product: fp16 (B, n, m), (B, m, d) -> fp32."""
        return split(half_product(affinity, joined(values, self.one)))

    def projected(self, attention: Attention, tokens: Tensor) -> Tensor:
        """Phi or psi: tokens (..., n, C) -> scaled fp16 keys (..., n, c)."""
        return (self.key_scale * attention.project(tokens.float())).half()

    def encoded(self, z: Tensor, C: Tensor, D: Tensor) -> Tensor:
        """Eq. 3 (or 4) and psi: tokens (..., n, C) -> scaled fp16 keys (..., n, c)."""
        return self.projected(self.net.transformer.cross_attention, instance_norm(C / D + z))


class HalfQuery(HalfMemory, ShiftedQueryGraph):
    """Eq. 4 of the search frame, and what the frame brings along if it enters the memory later."""


class HalfMemoryUpdate(HalfMemory, MemoryUpdateGraph):
    """A frame enters a slot; numerators and denominators come out of one product each."""

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
        N, n = z_all.shape[1:3]
        others, replaced = valid * (1 - slot), valid * slot
        z_old, key_old = (held(replaced, bank).sum(1) for bank in (z_all, key_all))
        left = replaced.sum(1)[:, None, None] > 0.5
        values = joined(x_tra, self.one), torch.where(left, -joined(z_old, self.one), 0.0)

        # What enters and what leaves in one product. Slots that hold nothing get terms too: they are overwritten.
        both = self.affinity(key_all.flatten(1, 2), torch.cat((key, key_old), 1))
        terms = half_product(both, torch.cat(values, 1)).unflatten(1, (N, n))
        from_others = held(others, joined(z_all, self.one)).flatten(1, 2)
        C_own, D_own = split(half_product(both[..., :n].transpose(1, 2), from_others))
        return *split(terms), C + C_own, D + D_own


class HalfMemoryRead(HalfMemory, MemoryReadAllGraph):
    """Eq. 5 by fused attention over all slots; validity is a value column, so that no mask is needed.

    Of what a query takes from all slots, the share of valid ones is known; dividing by it leaves their average. Empty
    slots repeat the first one's keys, so that this share is never less than one in the number of slots: keys of zeros
    could outweigh all valid ones by more than fp16 can tell.
    """

    def forward(self, query: Tensor, key_cross_all: Tensor, E_tra_all: Tensor, valid: Tensor) -> Tensor:
        D, width = E_tra_all.shape[-1], query.shape[-1]
        ones = torch.ones_like(E_tra_all[..., :1])
        values = held(valid, torch.cat((E_tra_all, ones), -1)).flatten(1, 2)
        keys = torch.where(valid[:, :, None, None] > 0.5, key_cross_all, key_cross_all[:, :1]).flatten(1, 2)
        # The fused kernels want values as wide as keys.
        values = F.pad(values, (0, max(width - D - 1, 0)))
        read = F.scaled_dot_product_attention(query[:, None], keys[:, None], values[:, None], scale=1.0)[:, 0]
        return read[..., :D].float() / read[..., D : D + 1].float()


class HalfResidual(FixedResidualGraph):
    """Eq. 6 at the filter that the learner starts from; features and filter are fp16 operands."""

    def forward(
        self, z_ind: Tensor, E_ind: Tensor, W: Tensor, sample_weights: Tensor, omega: Tensor
    ) -> tuple[Tensor, ...]:
        weights = (W * sample_weights[:, :, None, None]).permute(0, 3, 1, 2)
        answer = apply_half_filter(z_ind, omega, self.config.feature_size, self.config.filter_size)
        return weights, weights * (answer - E_ind.permute(0, 3, 1, 2))


class HalfStep(FixedStepGraph):
    """One step of steepest descent; gradient and residual are rounded as operands only, after scaling."""

    def forward(self, z_ind: Tensor, weights: Tensor, omega: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
        size, K = self.config.feature_size, self.config.filter_size
        reg = self.net.target_model.filter_reg
        taps = scatter_taps((weights * residual).unflatten(3, size), K).flatten(2)
        halves, largest = scaled_half(taps)
        g = largest * half_product(halves, z_ind.flatten(1, 2)) + reg * reg * omega
        h = weights * apply_half_filter(z_ind, g, size, K)
        denominator = h.square().sum((1, 2, 3)) + (reg * g).square().sum((1, 2))
        alpha = g.square().sum((1, 2)) / denominator.clamp(min=1e-8)
        return omega - alpha[:, None, None] * g, residual - alpha[:, None, None, None] * h


def apply_half_filter(z: Tensor, omega: Tensor, size: tuple[int, int], filter_size: int) -> Tensor:
    """T_omega: fp16 tokens (B, N, n, C), fp32 omega (B, K*K*D, C) -> fp32 (B, D, N, n)."""
    halves, largest = scaled_half(omega)
    planes = largest * half_product(halves, z.flatten(1, 2).transpose(1, 2))
    return gather_taps(planes.unflatten(2, (z.shape[1], *size)), filter_size).flatten(3)
