"""The segmentation decoder D_theta (eq. 7); the refinement network of Robinson et al. (FRTM) as LWL uses it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS: Final = {4: 4, 3: 2, 2: 2, 1: 1}
"""Channels of each decoder layer in units of the decoder's width."""


def conv(channels: int, out: int, kernel: int, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=bias)


class TSE(nn.Module):
    """Target segmentation encoder: features reduced, joined with the mask encodings, mixed."""

    def __init__(self, channels: int, encoding_channels: int, out: int) -> None:
        super().__init__()
        joined = out + encoding_channels
        self.reduce = nn.Sequential(conv(channels, out, 1), nn.ReLU(), conv(out, out, 1))
        self.transform = nn.Sequential(
            conv(joined, joined, 3), nn.ReLU(), conv(joined, joined, 3), nn.ReLU(), conv(joined, out, 3), nn.ReLU()
        )

    def forward(self, features: Tensor, encodings: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, H, W), (B, D, H, W) -> the mixed and the merely reduced features, (B, out, H, W)."""
        reduced = self.reduce(features)
        return self.transform(torch.cat((reduced, encodings), dim=1)), reduced


class RRB(nn.Module):
    """Refinement residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1x1 = conv(channels, channels, 1)
        self.bblock = nn.Sequential(
            conv(channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels, 3, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        h = self.conv1x1(x)
        return F.relu(h + self.bblock(h))


class CAB(nn.Module):
    """Channel attention: the deeper layer says which channels of the shallower one count."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convreluconv = nn.Sequential(conv(2 * channels, channels, 1), nn.ReLU(), conv(channels, channels, 1))

    def forward(self, deeper: Tensor, shallower: Tensor) -> Tensor:
        """(B, channels, H', W'), (B, channels, H, W) -> (B, channels, H, W)."""
        means = torch.cat((shallower.mean((2, 3), keepdim=True), deeper.mean((2, 3), keepdim=True)), dim=1)
        gate = torch.sigmoid(self.convreluconv(means))
        return shallower * gate + resize(deeper, shallower.shape[-2:])


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear, pixel centres aligned by area (align_corners false); a single cell is repeated."""
    if x.shape[-2:] == (1, 1):
        return x.expand(-1, -1, *size)
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)


class BicubicDouble(torch.autograd.Function):
    """Bicubic x2 as two matrix products, which on a CPU take a fifth of the time of PyTorch's own, there and back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W)."""
        ctx.size = x.shape[-2:]
        height, width = ctx.size
        # One product over all rows wants them one after another; channels-last tensors have them apart.
        rows = x.contiguous() @ doubling(width).to(x).T
        return doubling(height).to(x) @ rows

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The adjoint: (B, C, 2 H, 2 W) -> (B, C, H, W)."""
        height, width = ctx.size
        columns = gradient.contiguous() @ doubling(width).to(gradient)
        return doubling(height).to(gradient).T @ columns


@cache
def doubling(length: int) -> Tensor:
    """The bicubic x2 along one axis as a matrix, (2 length, length)."""
    unit = torch.eye(length)[None, :, None]
    return F.interpolate(unit, (1, 2 * length), mode="bicubic", align_corners=False)[0, :, 0].T.contiguous()


def double(x: Tensor) -> Tensor:
    """Bicubic x2: (B, C, H, W) -> (B, C, 2 H, 2 W)."""
    if x.requires_grad:
        doubled: Tensor = BicubicDouble.apply(x)
        return doubled
    return F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)


class Projection(nn.Module):
    """From the finest features to logits at four times their size: bicubic x2, 3x3, bicubic x2, 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv(channels, channels // 2, 3)
        self.conv2 = conv(channels // 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H / 4, W / 4) -> (B, 1, H, W)."""
        return self.conv2(double(F.relu(self.conv1(double(x)))))


class Decoder(nn.Module):
    """From the sum of both branches' encodings and the trunk's layers to the target's logits."""

    def __init__(self, layer_channels: tuple[int, int, int, int], encoding_channels: int, width: int) -> None:
        super().__init__()
        names = {layer: f"layer{layer}" for layer in WIDTHS}
        channels = {layer: width * factor for layer, factor in WIDTHS.items()}
        self.TSE = nn.ModuleDict({names[i]: TSE(layer_channels[i - 1], encoding_channels, channels[i]) for i in WIDTHS})
        self.RRB1 = nn.ModuleDict({names[i]: RRB(channels[i]) for i in WIDTHS})
        self.CAB = nn.ModuleDict({names[i]: CAB(channels[i]) for i in WIDTHS})
        self.RRB2 = nn.ModuleDict({names[i]: RRB(channels[i]) for i in WIDTHS})
        self.proj = nn.ModuleDict(
            {names[i]: nn.Sequential(conv(channels[i + 1], channels[i], 1), nn.ReLU()) for i in (3, 2, 1)}
        )
        self.project = Projection(width)

    def refine(self, encodings: Tensor, layers: list[Tensor]) -> dict[int, Tensor]:
        """The outputs of all four decoder layers: (B, D, h, w) and the trunk's layers 1 to 4 -> {4: ..., 1: ...}."""
        outputs: dict[int, Tensor] = {}
        for i in WIDTHS:
            name = f"layer{i}"
            features = layers[i - 1]
            mixed, reduced = self.TSE[name](features, resize(encodings, features.shape[-2:]))
            deeper = reduced.mean((2, 3), keepdim=True) if i == 4 else self.proj[name](outputs[i + 1])
            outputs[i] = self.RRB2[name](self.CAB[name](deeper, self.RRB1[name](mixed)))
        return outputs

    def forward(self, encodings: Tensor, layers: list[Tensor]) -> Tensor:
        """E*_tra + E*_ind (B, D, h, w) and the trunk's layers 1 to 4 -> logits (B, 1, H, W)."""
        logits: Tensor = self.project(self.refine(encodings, layers)[1])
        return logits
