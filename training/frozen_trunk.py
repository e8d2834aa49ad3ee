"""The part of the trunk that never learns: without gradients, and with its BatchNorm folded into the convolutions."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..model.backbone import EfficientNetLite0


class FrozenTrunk:
    """The stem and first layers of a trunk, as they are when this is made; no part of any module.

    Attributes:
        layers: how many.
    """

    def __init__(self, trunk: EfficientNetLite0, layers: int) -> None:
        self.layers = layers
        self._preprocess = trunk.preprocess
        self._stages = [folded(trunk.stem), *(folded(getattr(trunk, f"layer{i + 1}")) for i in range(layers))]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB 0..255 -> the first layers."""
        x = self._stages[0](self._preprocess(images))
        outputs = []
        for stage in self._stages[1:]:
            x = stage(x)
            outputs.append(x)
        return outputs


def folded(module: nn.Module) -> nn.Module:
    """A copy for inference whose sequences of convolution and BatchNorm are single convolutions."""
    twin = copy.deepcopy(module).eval().requires_grad_(False)
    for sequence in [m for m in twin.modules() if isinstance(m, nn.Sequential)]:
        for index, (first, second) in enumerate(pairwise(list(sequence))):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                sequence[index] = fuse_conv_bn_eval(first, second)
                sequence[index + 1] = nn.Identity()
    return twin
