"""The transduction branch (section 3.2): eq. 1 to 5.

Everywhere S counts independent objects, N the memory frames of each, and tokens are the h*w cells of a feature map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_tokens(x: Tensor) -> Tensor:
    """(..., C, h, w) -> (..., h*w, C)."""
    return x.flatten(-2).transpose(-1, -2)


def instance_norm(tokens: Tensor) -> Tensor:
    """Zero mean and unit variance per frame and channel over (..., h*w, C) tokens; no affine part, eps 1e-5."""
    variance, mean = torch.var_mean(tokens, dim=-2, correction=0, keepdim=True)
    return (tokens - mean) * torch.rsqrt(variance + 1e-5)


class Attention(nn.Module):
    """Eq. 1 with one projection W_K for queries and keys, both L2-normalised; values are taken as they are."""

    def __init__(self, channels: int, key_channels: int, tau: float) -> None:
        super().__init__()
        self.W_K = nn.Linear(channels, key_channels)
        self.tau = tau

    def project(self, tokens: Tensor) -> Tensor:
        """Phi or psi: (..., n, C) -> unit vectors (..., n, key_channels)."""
        return F.normalize(self.W_K(tokens), dim=-1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(S, n_q, C), (S, n_k, C), (S, n_k, d_v) -> (S, n_q, d_v)."""
        logits = self.project(query) @ self.project(key).transpose(-1, -2) / self.tau
        return logits.softmax(dim=-1) @ value


class Transformer(nn.Module):
    """One encoder layer over the memory, one decoder layer over the search frame; the self-attention is shared."""

    def __init__(self, channels: int, key_channels: int, tau: float) -> None:
        super().__init__()
        self.self_attention = Attention(channels, key_channels, tau)
        self.cross_attention = Attention(channels, key_channels, tau)

    def encode(self, z_tra: Tensor) -> Tensor:
        """Eq. 2 and 3: memory features (S, N, C, h, w) -> encoded tokens (S, N, h*w, C).

        All tokens of an object's N frames attend to one another; the instance norm is per frame.
        """
        z = to_tokens(z_tra)
        joint = z.flatten(1, 2)
        return instance_norm(self.self_attention(joint, joint, joint).view_as(z) + z)

    def query(self, x_tra: Tensor) -> Tensor:
        """Eq. 4: search features (S, C, h, w) -> X_attn tokens (S, h*w, C)."""
        x = to_tokens(x_tra)
        return instance_norm(self.self_attention(x, x, x) + x)

    def decode(self, x_tra: Tensor, encoded: Tensor, E_tra: Tensor) -> Tensor:
        """Eq. 4 and 5: (S, C, h, w), (S, N, h*w, C), (S, N, D, h, w) -> E*_tra (S, D, h, w)."""
        values = to_tokens(E_tra).flatten(1, 2)
        out = self.cross_attention(self.query(x_tra), encoded.flatten(1, 2), values)
        return out.transpose(-1, -2).unflatten(-1, x_tra.shape[-2:])
