"""The decoder's last layers without large intermediates: the same linear maps, in another order.

Bicubic enlargement by two is a fixed banded matrix along each axis, so it commutes with everything that acts on
channels only. The last 3x3 convolution to one channel therefore runs first, as a 1x1 to nine planes at half the size;
its nine shifts are folded into the matrices of the enlargement. Generic cubic resize operators are many times slower
than these products on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model.decoder import Projection

CUBIC_A = -0.75
"""The cubic kernel's parameter in torch and OpenCV."""


def cubic_weight(distance: float) -> float:
    """The cubic convolution kernel (Keys 1981) with a = -0.75."""
    d = abs(distance)
    if d <= 1:
        return ((CUBIC_A + 2) * d - (CUBIC_A + 3)) * d * d + 1
    if d < 2:
        return ((CUBIC_A * d - 5 * CUBIC_A) * d + 8 * CUBIC_A) * d - 4 * CUBIC_A
    return 0.0


def doubling_matrix(size: int) -> Tensor:
    """Bicubic enlargement by two as a matrix, (2 size, size); borders repeat, pixel centres by area."""
    matrix = torch.zeros(2 * size, size, dtype=torch.float64)
    for row in range(2 * size):
        source = (row + 0.5) / 2 - 0.5
        first = int(source // 1) - 1
        for tap in range(first, first + 4):
            matrix[row, min(max(tap, 0), size - 1)] += cubic_weight(source - tap)
    return matrix.float()


def shifted(matrix: Tensor) -> Tensor:
    """Side by side (rows, 3 columns): the matrix a row down, as it is, a row up, zeros moved in.

    What a 3x3 convolution's taps see of the zero-padded enlargement.
    """
    return torch.cat((F.pad(matrix[:-1], (0, 0, 1, 0)), matrix, F.pad(matrix[1:], (0, 0, 0, 1))), dim=1)


class FoldedProjection(nn.Module):
    """What `Projection` computes, for one size."""

    def __init__(self, projection: Projection, height: int, width: int) -> None:
        super().__init__()
        self.rows1: Tensor
        self.columns1: Tensor
        self.rows2: Tensor
        self.columns2: Tensor
        self.projection = projection
        self.register_buffer("rows1", doubling_matrix(height))
        self.register_buffer("columns1", doubling_matrix(width))
        self.register_buffer("rows2", doubling_matrix(2 * height))
        self.register_buffer("columns2", doubling_matrix(2 * width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H / 4, W / 4) -> logits (B, 1, H, W)."""
        weight, bias = self.projection.conv2.weight, self.projection.conv2.bias
        assert bias is not None
        x = F.relu(self.projection.conv1(self.rows1 @ (x @ self.columns1.T)))
        height, width = x.shape[-2:]
        planes = F.conv2d(x, weight[0].permute(1, 2, 0).reshape(9, -1, 1, 1)).unflatten(1, (3, 3))
        joined = planes.permute(0, 1, 3, 2, 4).reshape(-1, 3 * height, 3 * width)
        return (shifted(self.rows2) @ (joined @ shifted(self.columns2).T) + bias).unsqueeze(1)
