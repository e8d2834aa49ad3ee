"""The two trunks: ResNet-50 (He et al., as Mask R-CNN has it) and EfficientNet-Lite0 (Tan et al.)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut; the stride is in the first 1x1, as in Caffe2's Mask R-CNN weights."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.downsample = (
            nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if channels != out
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, 4 width, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """Layers 1 to 4 of ResNet-50 at strides 4, 8, 16, 32."""

    channels = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        # Mask R-CNN's pixel mean, in BGR order.
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor((102.9801, 115.9465, 122.7717)).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = self._layer(64, 64, 3, 1)
        self.layer2 = self._layer(256, 128, 4, 2)
        self.layer3 = self._layer(512, 256, 6, 2)
        self.layer4 = self._layer(1024, 512, 3, 2)

    @staticmethod
    def _layer(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(4 * width, width, 1) for _ in range(blocks - 1))
        return nn.Sequential(Bottleneck(channels, width, stride), *rest)

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB 0..255 -> BGR less the mean."""
        return images.flip(1) - self.mean

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0..255 -> layers 1 to 4."""
        x = F.relu(self.bn1(self.conv1(self.preprocess(images))))
        layer1 = self.layer1(F.max_pool2d(x, 3, 2, 1))
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        return [layer1, layer2, layer3, self.layer4(layer3)]


class SamePadConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does for inputs that the stride divides: the odd pixel goes last."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, groups=groups, bias=False)
        total = kernel - stride
        self.pads = (total // 2, total - total // 2) * 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        return super().forward(F.pad(x, self.pads) if any(self.pads) else x)


class InvertedResidual(nn.Module):
    """MBConv without squeeze-and-excite, with ReLU6: expand 1x1, depthwise, project 1x1."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        width = channels * expand
        self.expand = (
            nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width, eps=1e-3), nn.ReLU6())
            if expand != 1
            else nn.Identity()
        )
        self.depthwise = nn.Sequential(
            SamePadConv(width, width, kernel, stride, groups=width), nn.BatchNorm2d(width, eps=1e-3), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out, eps=1e-3))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """The trunk of EfficientNet-Lite0 up to its last inverted residual: strides 4, 8, 16, 32."""

    channels = (24, 40, 112, 320)

    # (blocks, kernel, stride, expansion, output channels); the table of EfficientNet-B0, which Lite0 keeps.
    _STAGES = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SamePadConv(3, 32, 3, 2), nn.BatchNorm2d(32, eps=1e-3), nn.ReLU6())
        stages: list[nn.Sequential] = []
        channels = 32
        for blocks, kernel, stride, expand, out in self._STAGES:
            first = InvertedResidual(channels, out, kernel, stride, expand)
            rest = (InvertedResidual(out, out, kernel, 1, expand) for _ in range(blocks - 1))
            stages.append(nn.Sequential(first, *rest))
            channels = out
        self.layer1 = nn.Sequential(*stages[:2])
        self.layer2 = stages[2]
        self.layer3 = nn.Sequential(*stages[3:5])
        self.layer4 = nn.Sequential(*stages[5:])

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB 0..255 -> about -1..1, as the ImageNet weights were trained."""
        return (images - 127.0) * (1 / 128.0)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0..255 -> layers 1 to 4."""
        layer1 = self.layer1(self.stem(self.preprocess(images)))
        layer2 = self.layer2(layer1)
        layer3 = self.layer3(layer2)
        return [layer1, layer2, layer3, self.layer4(layer3)]


BACKBONES: dict[str, type[ResNet50] | type[EfficientNetLite0]] = {
    "resnet50": ResNet50,
    "efficientnet_lite0": EfficientNetLite0,
}
