"""Half-precision convolutions with what follows them in the same call: bias, addition and ReLU.

PyTorch adds a convolution's bias, a shortcut and the ReLU by kernels of their own, each of which reads and writes the
whole feature map; cuDNN does all of it while the sums are still in registers, and rounds once.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....model.backbone import Bottleneck
from ....model.decoder import RRB
from ....model.label_encoder import ResidualBlock
from ....model.network import JointNet


@torch.library.custom_op("jointrt::conv_relu", mutates_args=())
def conv_relu(
    x: Tensor, weight: Tensor, bias: Tensor, addend: Tensor | None, stride: list[int], padding: list[int]
) -> Tensor:
    """ReLU(conv(x) + bias + addend): (B, C, H, W), (K, C, h, w), (K,), (B, K, H', W') -> (B, K, H', W')."""
    y = F.conv2d(x, weight, bias, stride, padding)
    return F.relu(y if addend is None else y + addend)


@conv_relu.register_kernel("cuda")
def _in_one_call(
    x: Tensor, weight: Tensor, bias: Tensor, addend: Tensor | None, stride: list[int], padding: list[int]
) -> Tensor:
    if addend is None:
        return torch.cudnn_convolution_relu(x, weight, bias, stride, padding, (1, 1), 1)
    return torch.cudnn_convolution_add_relu(x, weight, addend, 1.0, bias, stride, padding, (1, 1), 1)


@conv_relu.register_fake
def _shape(
    x: Tensor, weight: Tensor, bias: Tensor, addend: Tensor | None, stride: list[int], padding: list[int]
) -> Tensor:
    return F.conv2d(x, weight, bias, stride, padding).contiguous(memory_format=torch.channels_last)


def channels_last_half(x: Tensor) -> Tensor:
    """fp16, channels last."""
    return x.half().contiguous(memory_format=torch.channels_last)


class ConvReLU(nn.Module):
    """A convolution with a ReLU after it, and an addition between them if there is something to add."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias: Tensor
        bias = torch.zeros(conv.out_channels, device=conv.weight.device) if conv.bias is None else conv.bias.data
        self.register_buffer("bias", bias.to(conv.weight.dtype), persistent=False)
        self.stride, self.padding = list(conv.stride), [int(n) for n in conv.padding]

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B, K, H', W') -> (B, K, H', W')."""
        addend = None if addend is None else channels_last_half(addend)
        found: Tensor = conv_relu(channels_last_half(x), self.weight, self.bias, addend, self.stride, self.padding)
        return found


class PixelwiseLinear(nn.Module):
    """A 1x1 convolution without a ReLU: as a matrix product, which adds the bias itself."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)."""
        pixels = channels_last_half(x).permute(0, 2, 3, 1)
        return F.linear(pixels, self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)


class FusedBottleneck(nn.Module):
    """See `Bottleneck`, its normalisations folded."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = map(ConvReLU, (block.conv1, block.conv2, block.conv3))
        self.downsample = block.downsample

    def forward(self, x: Tensor) -> Tensor:
        """As the block's."""
        y: Tensor = self.conv3(self.conv2(self.conv1(x)), x if self.downsample is None else self.downsample(x))
        return y


class FusedRRB(nn.Module):
    """See `RRB`, its normalisation folded."""

    def __init__(self, block: RRB) -> None:
        super().__init__()
        self.conv1x1 = block.conv1x1
        first, last = (conv for conv in block.bblock if isinstance(conv, nn.Conv2d))
        self.first, self.last = ConvReLU(first), ConvReLU(last)

    def forward(self, x: Tensor) -> Tensor:
        """As the block's."""
        h = self.conv1x1(x)
        y: Tensor = self.last(self.first(h), h)
        return y


class FusedResidualBlock(nn.Module):
    """See `ResidualBlock`."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1, self.conv2, self.downsample = ConvReLU(block.conv1), ConvReLU(block.conv2), block.downsample

    def forward(self, x: Tensor) -> Tensor:
        """As the block's."""
        y: Tensor = self.conv2(self.conv1(x), self.downsample(x))
        return y


_BLOCKS: dict[type[nn.Module], type[nn.Module]] = {
    Bottleneck: FusedBottleneck,
    RRB: FusedRRB,
    ResidualBlock: FusedResidualBlock,
}


def fuse_epilogues(net: JointNet) -> None:
    """Give convolutions in half precision their ReLUs, in place; see `torch.halve_convolutions`, which comes first.

    A ReLU6 stays behind its convolution: what is above six is still cut.
    """
    _fuse_children(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Conv2d) and _fusable(child) and _pixelwise(child):
                setattr(parent, name, PixelwiseLinear(child))


def _fuse_children(module: nn.Module) -> None:
    for name, child in module.named_children():
        if type(child) in _BLOCKS and all(_fusable(m) for m in child.modules() if isinstance(m, nn.Conv2d)):
            setattr(module, name, _BLOCKS[type(child)](child))
            continue
        _fuse_children(child)
    if isinstance(module, nn.Sequential):
        layers = [(name, child) for name, child in module.named_children() if not isinstance(child, nn.Identity)]
        for (name, first), (after, second) in itertools.pairwise(layers):
            if isinstance(first, nn.Conv2d) and _fusable(first) and isinstance(second, (nn.ReLU, nn.ReLU6)):
                setattr(module, name, ConvReLU(first))
                if isinstance(second, nn.ReLU):
                    setattr(module, after, nn.Identity())


def _fusable(conv: nn.Conv2d) -> bool:
    """Whether cuDNN's call suits it: half precision, dense, channels in steps of eight as tensor cores take them."""
    plain = type(conv) is nn.Conv2d and conv.groups == 1 and conv.dilation == (1, 1)
    wide = conv.in_channels % 8 == 0 and conv.out_channels % 8 == 0
    return plain and wide and conv.weight.dtype == torch.float16


def _pixelwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.bias is not None
