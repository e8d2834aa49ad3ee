"""Masks from clicks: a ladder of convolutions beside the trunk, in the manner of RITM (Sofiiuk et al., ICIP 2022).

As there, clicks are disks and the last mask is an input. Unlike there, the trunk sees the picture alone, so that its
features are computed once for a crop; clicks enter at stride 4 and meet the features at every stride from 4 to 32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .backbone import EfficientNetLite0

PROMPTS = ("positive", "negative", "previous", "outside")
"""Planes of the prompts: disks about clicks on the object, disks about clicks beside it, the last mask, and 1 outside
of the box where one is given."""
TASK = "clicks"
"""How weights files say that they are of this network."""


@dataclass(frozen=True, slots=True)
class ClickConfig:
    """The sizes of a click network.

    Attributes:
        crop: side of the square crop in pixels; a multiple of 32.
        widths: channels of the ladder at strides 2, 4, 8, 16, 32.
        heads: parts of the features at stride 16 that are compared with the clicked ones.
    """

    crop: int = 320
    widths: tuple[int, int, int, int, int] = (16, 32, 64, 128, 128)
    heads: int = 8

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them, and the task."""
        return {"task": TASK, **asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The reverse of `to_dict`.

        Raises:
            ValueError: a field is unknown, or the task is another.
        """
        values = dict(values)
        if values.pop("task", None) != TASK:
            raise ValueError("these are not the settings of a click network")
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"unknown click settings: {', '.join(unknown)}")
        if "widths" in values:
            values["widths"] = tuple(int(width) for width in values["widths"])
        return cls(**values)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*_conv(channels, channels, 3), nn.ReLU())
        self.second = nn.Sequential(*_conv(channels, channels, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        return F.relu(x + self.second(self.first(x)))


class WideBlock(nn.Module):
    """Depthwise 7x7, which sees most of a small map, then twice as many channels and back, with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.spread = nn.Sequential(*_conv(channels, channels, 7, groups=channels))
        self.mix = nn.Sequential(
            *_conv(channels, 2 * channels, 1),
            nn.ReLU(),
            nn.Conv2d(2 * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same."""
        return F.relu(x + self.mix(self.spread(x)))


class ClickNet(nn.Module):
    """The network; `layers` and `project` see the picture only, `head` takes the prompts."""

    def __init__(self, config: ClickConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = EfficientNetLite0()
        # The last stage doubles the trunk's size and adds no resolution.
        self.backbone.layer4 = nn.Sequential(self.backbone.layer4[0])
        trunk = (32, *EfficientNetLite0.channels[:3], 192)
        w2, w4, w8, w16, w32 = config.widths
        self.projections = nn.ModuleList(
            nn.Sequential(*_conv(channels, width, 1)) for channels, width in zip(trunk, config.widths, strict=True)
        )
        planes = len(PROMPTS)
        self.enter2 = nn.Sequential(*_conv(planes, w2, 3, 2), nn.ReLU())
        self.enter4 = nn.Sequential(*_conv(w2, w4, 3, 2))
        self.enter16 = nn.Sequential(*_conv(3 * config.heads, w16, 1))
        self.down8 = nn.Sequential(*_conv(w4, w8, 3, 2))
        self.down16 = nn.Sequential(*_conv(w8, w16, 3, 2))
        self.down32 = nn.Sequential(*_conv(w16, w32, 3, 2))
        self.encode4 = Block(w4)
        self.encode8 = nn.Sequential(Block(w8), Block(w8))
        self.encode16 = Block(w16)
        self.encode32 = nn.Sequential(*(WideBlock(w32) for _ in range(3)))
        self.up16 = nn.Sequential(*_conv(w32, w16, 1))
        self.up8 = nn.Sequential(*_conv(w16, w8, 1))
        self.up4 = nn.Sequential(*_conv(w8, w4, 1))
        self.up2 = nn.Sequential(*_conv(w4, w2, 1))
        self.decode16 = Block(w16)
        self.decode8 = nn.Sequential(Block(w8), Block(w8))
        self.decode4 = Block(w4)
        self.decode2 = nn.Sequential(*_conv(w2, w2, 3), nn.ReLU())
        self.out = nn.Conv2d(w2, 1, 3, padding=1)

    def layers(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) RGB 0..255 -> the trunk's stem and layers 1 to 4, at strides 2, 4, 8, 16, 32."""
        trunk = self.backbone
        stem = trunk.stem(trunk.preprocess(images))
        layer1 = trunk.layer1(stem)
        layer2 = trunk.layer2(layer1)
        layer3 = trunk.layer3(layer2)
        return [stem, layer1, layer2, layer3, trunk.layer4(layer3)]

    def project(self, layers: list[Tensor]) -> list[Tensor]:
        """The trunk's layers -> the ladder's widths; what is kept of a crop."""
        return [projection(layer) for projection, layer in zip(self.projections, layers, strict=True)]

    def head(self, features: list[Tensor], prompts: Tensor) -> Tensor:
        """Features of `project` and prompts (B, 4, S, S), 0..1, in the order of `PROMPTS` -> logits (B, 1, S, S)."""
        f2, f4, f8, f16, f32 = features
        x2 = self.enter2(prompts)
        x4 = self.encode4(F.relu(self.enter4(x2) + f4))
        x8 = self.encode8(F.relu(self.down8(x4) + f8))
        alike = self.enter16(self.likeness(f16, prompts))
        x16 = self.encode16(F.relu(self.down16(x8) + f16 + alike))
        x32 = self.encode32(F.relu(self.down32(x16) + f32))
        y16 = self.decode16(F.relu(x16 + _twice(self.up16(x32))))
        y8 = self.decode8(F.relu(x8 + _twice(self.up8(y16))))
        y4 = self.decode4(F.relu(x4 + _twice(self.up4(y8))))
        y2 = F.relu(_twice(self.up2(y4)) + f2 + x2)
        return F.interpolate(self.out(self.decode2(y2)), scale_factor=2.0, mode="bilinear", align_corners=False)

    def likeness(self, f16: Tensor, prompts: Tensor) -> Tensor:
        """Cosines between every cell and the means of the cells under the disks and the last mask.

        Args:
            f16: (B, C, h, w).
            prompts: (B, 4, 16 h, 16 w).

        Returns:
            (B, 3 heads, h, w); 0 where there is nothing to compare with.
        """
        heads, (h, w) = self.config.heads, f16.shape[-2:]
        cells = f16.float().unflatten(1, (heads, -1)).flatten(3)
        cells = cells / (cells.square().sum(2, keepdim=True) + 1e-6).sqrt()
        shares = F.avg_pool2d(prompts[:, :3].float(), 16).flatten(2)
        shares = shares / (shares.sum(2, keepdim=True) + 1e-6)
        means = torch.matmul(cells, shares.transpose(1, 2)[:, None])
        means = means / (means.square().sum(2, keepdim=True) + 1e-6).sqrt()
        return torch.matmul(means.transpose(2, 3), cells).flatten(1, 2).unflatten(2, (h, w)).to(f16.dtype)

    def forward(self, images: Tensor, prompts: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) and prompts (B, 4, S, S) -> logits (B, 1, S, S)."""
        return self.head(self.project(self.layers(images)), prompts)


def _conv(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out)


def _twice(x: Tensor) -> Tensor:
    """Every cell as 2 x 2 cells."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
