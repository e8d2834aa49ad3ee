"""The induction branch (section 3.3): the target model T_omega and its few-shot learner, eq. 6.

A filter bank over C channels is one matrix product to K*K*D planes and K*K shifted sums, its adjoint the reverse: the
residual is linear in omega, so the steepest descent (Bhat et al., LWL, section 3.2) needs no autograd. Everywhere S
counts independent objects and N their samples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class InstanceL2Norm(nn.Module):
    """x * scale * sqrt(C*h*w / (sum of x^2 + 1e-5)) over each sample (pytracking's layer of that name)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        size = x.shape[1] * x.shape[2] * x.shape[3]
        # Summed in two stages: hundreds of thousands of squares in one fp32 accumulator lose six digits.
        energy = x.square().sum(dim=(2, 3), keepdim=True).sum(dim=1, keepdim=True)
        return x * (self.scale * torch.sqrt(size / (energy + 1e-5)))


def to_matrix(omega: Tensor) -> Tensor:
    """Filters (S, D, C, K, K) -> (S, K*K*D, C), taps before channels."""
    return omega.permute(0, 3, 4, 1, 2).flatten(1, 3)


def to_filter(matrix: Tensor, filter_size: int) -> Tensor:
    """The reverse of `to_matrix`."""
    return matrix.unflatten(1, (filter_size, filter_size, -1)).permute(0, 3, 4, 1, 2).contiguous()


def gather_taps(planes: Tensor, filter_size: int) -> Tensor:
    """Shifted sums: planes (S, K*K*D, N, h, w) -> (S, D, N, h, w), zeros outside."""
    h, w = planes.shape[-2:]
    pad = filter_size // 2
    taps = F.pad(planes.unflatten(1, (filter_size * filter_size, -1)), (pad, pad, pad, pad))
    out = taps[:, 0, :, :, 0:h, 0:w]
    for k in range(1, filter_size * filter_size):
        dy, dx = divmod(k, filter_size)
        out = out + taps[:, k, :, :, dy : dy + h, dx : dx + w]
    return out


def scatter_taps(values: Tensor, filter_size: int) -> Tensor:
    """The adjoint of `gather_taps`: (S, D, N, h, w) -> (S, K*K*D, N, h, w)."""
    h, w = values.shape[-2:]
    pad = filter_size // 2
    padded = F.pad(values, (pad, pad, pad, pad))
    taps = []
    for k in range(filter_size * filter_size):
        dy, dx = divmod(k, filter_size)
        top, left = 2 * pad - dy, 2 * pad - dx
        taps.append(padded[..., top : top + h, left : left + w])
    return torch.cat(taps, dim=1)


def apply_filter(z: Tensor, omega: Tensor, filter_size: int) -> Tensor:
    """T_omega: tokens (S, N, h, w, C), omega as `to_matrix` gives it -> (S, D, N, h, w)."""
    planes = omega @ z.flatten(1, 3).transpose(1, 2)
    return gather_taps(planes.unflatten(2, z.shape[1:4]), filter_size)


def residuals(z: Tensor, E: Tensor, weights: Tensor, omega: Tensor, filter_size: int) -> Tensor:
    """The data part of eq. 6's residuals, weights . (T_omega(z) - E).

    Args:
        z: features as tokens, (S, N, h, w, C).
        E: few-shot labels, (S, D, N, h, w).
        weights: importance W times the sample's weight (the residual's factor, not its square's), (S, D, N, h, w).
        omega: (S, K*K*D, C).
        filter_size: K.

    Returns:
        (S, D, N, h, w).
    """
    return weights * (apply_filter(z, omega, filter_size) - E)


def descent_step(
    z: Tensor, weights: Tensor, reg: Tensor, omega: Tensor, residual: Tensor, filter_size: int
) -> tuple[Tensor, Tensor]:
    """One step of steepest descent on eq. 6 with exact line search.

    g = J^T r, h = J g, alpha = |g|^2 / max(|h|^2, 1e-8), omega -= alpha g. The residual is carried along
    (r -= alpha h), which saves one of three products.

    Args:
        z: (S, N, h, w, C).
        weights: as `residuals` takes them.
        reg: lambda, (1,); multiplies omega in the residual.
        omega: (S, K*K*D, C).
        residual: the data part at omega, (S, D, N, h, w).
        filter_size: K.

    Returns:
        omega and residual after the step.
    """
    g = scatter_taps(weights * residual, filter_size).flatten(2) @ z.flatten(1, 3) + reg * reg * omega
    h = weights * apply_filter(z, g, filter_size)
    denominator = h.square().sum(dim=(1, 2, 3, 4)) + (reg * g).square().sum(dim=(1, 2))
    alpha = g.square().sum(dim=(1, 2)) / denominator.clamp(min=1e-8)
    return omega - alpha[:, None, None] * g, residual - alpha[:, None, None, None, None] * h


class TargetModel(nn.Module):
    """T_omega and the learning of omega; lambda is the only weight."""

    def __init__(self, filter_size: int) -> None:
        super().__init__()
        self.filter_size = filter_size
        self.filter_reg = nn.Parameter(torch.full((1,), 0.04))

    def forward(self, x_ind: Tensor, omega: Tensor) -> Tensor:
        """E*_ind = T_omega(X): (S, C, h, w), (S, D, C, K, K) -> (S, D, h, w)."""
        z = x_ind.permute(0, 2, 3, 1)[:, None]
        return apply_filter(z, to_matrix(omega), self.filter_size)[:, :, 0]

    def fit(
        self, z_ind: Tensor, E_ind: Tensor, W: Tensor, sample_weights: Tensor, omega: Tensor | None, steps: int
    ) -> Tensor:
        """Few-shot learning, eq. 6; differentiable.

        Args:
            z_ind: (S, N, C, h, w).
            E_ind: (S, N, D, h, w).
            W: (S, N, D, h, w).
            sample_weights: (S, N).
            omega: the filter to start from, (S, D, C, K, K); None for zeros.
            steps: 20 for a new object, 3 at a memory update (section 4.1; LWL).

        Returns:
            omega, (S, D, C, K, K).
        """
        z = z_ind.permute(0, 1, 3, 4, 2)
        E, weights = E_ind.transpose(1, 2), (W * sample_weights[:, :, None, None, None]).transpose(1, 2)
        if omega is None:
            matrix = z.new_zeros(z.shape[0], self.filter_size**2 * E.shape[1], z.shape[-1])
        else:
            matrix = to_matrix(omega)
        residual = residuals(z, E, weights, matrix, self.filter_size)
        for _ in range(steps):
            matrix, residual = descent_step(z, weights, self.filter_reg, matrix, residual, self.filter_size)
        return to_filter(matrix, self.filter_size)


def feature_scale(feature_channels: int, filter_size: int) -> float:
    """InstanceL2Norm's scale for x_ind: sqrt(1 / (C K K)), so that a filter's answer has unit scale."""
    return math.sqrt(1 / (feature_channels * filter_size * filter_size))
