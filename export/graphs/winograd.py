"""A 3x3 convolution as Winograd's F(2x2, 3x3): four outputs from sixteen products instead of thirty-six.

Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016). Exact in real arithmetic and about as
accurate as the direct form in fp32. Channels come last throughout, so that every slice copies whole cells, the sixteen
products are plain matrix products, and the result is the tokens that attention and few-shot learner read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WinogradConv(nn.Module):
    """Several 3x3 convolutions of one input, without bias, padding 1; its height and width are even.

    Args:
        weights: one tensor (output channels, C, 3, 3) per convolution.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.cat(weights).detach().permute(2, 3, 1, 0).contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> tokens (B, h*w, all output channels)."""
        h, w = x.shape[-2:]
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        rows = _input_transform([padded[:, i : i + h - 1 : 2] for i in range(4)])
        # Functions of the weights alone: folded into constants when the graph is loaded, so that files stay small.
        filters = [_filter_transform(list(g.unbind(0))) for g in _filter_transform(list(self.weight.unbind(0)))]
        products = []
        for row, row_filters in zip(rows, filters, strict=True):
            tiles = _input_transform([row[:, :, i : i + w - 1 : 2] for i in range(4)])
            pairs = zip(tiles, row_filters, strict=True)
            products.append([(tile.flatten(1, 2) @ g).unflatten(1, (h // 2, w // 2)) for tile, g in pairs])
        # Rows of output tiles first, then columns; (B, h/2, 2, w/2, 2, channels) in the end.
        halves = zip(*(_output_transform(list(column)) for column in zip(*products, strict=True)), strict=True)
        lines = [torch.stack(_output_transform(list(half)), dim=3).flatten(2, 3) for half in halves]
        return torch.stack(lines, dim=2).flatten(1, 3)


class DirectConv(nn.Module):
    """What `WinogradConv` computes, as one convolution."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.cat(weights).detach())

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> tokens (B, h*w, all output channels)."""
        return F.conv2d(x, self.weight, padding=1).flatten(2).transpose(1, 2)


def _filter_transform(g: list[Tensor]) -> list[Tensor]:
    """G g along one axis."""
    return [g[0], 0.5 * (g[0] + g[1] + g[2]), 0.5 * (g[0] - g[1] + g[2]), g[2]]


def _input_transform(d: list[Tensor]) -> list[Tensor]:
    """B^T d along one axis."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_transform(m: list[Tensor]) -> tuple[Tensor, Tensor]:
    """A^T m along one axis."""
    return m[0] + m[1] + m[2], m[1] - m[2] - m[3]
