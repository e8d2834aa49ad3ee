"""The two graphs of a click network: what is computed once for a crop, and what for every click."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ...model.clicks import PROMPTS, ClickNet
from .graph import Graph, Port

STRIDES = (2, 4, 8, 16, 32)


class ClickGraph(Graph):
    """One of them."""

    def __init__(self, net: ClickNet) -> None:
        nn.Module.__init__(self)
        self.clicks = net

    def kept(self) -> list[Port]:
        """Ports of the features."""
        config = self.clicks.config
        sizes = [(width, config.crop // stride) for width, stride in zip(config.widths, STRIDES, strict=True)]
        return [Port(f"f{stride}", ("B", w, n, n)) for stride, (w, n) in zip(STRIDES, sizes, strict=True)]

    def square(self, name: str, channels: int) -> Port:
        """A port of the crop's size."""
        side = self.clicks.config.crop
        return Port(name, ("B", channels, side, side))


class ClickFeatures(ClickGraph):
    """crop (B, 3, S, S) RGB 0..255 -> features at strides 2 to 32."""

    name: ClassVar[str] = "features"

    def inputs(self) -> list[Port]:
        return [self.square("crop", 3)]

    def outputs(self) -> list[Port]:
        return self.kept()

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return tuple(self.clicks.project(self.clicks.layers(crop)))


class ClickMask(ClickGraph):
    """Features and prompts (B, 4, S, S) -> logits (B, 1, S, S)."""

    name: ClassVar[str] = "mask"

    def inputs(self) -> list[Port]:
        return [*self.kept(), self.square("prompts", len(PROMPTS))]

    def outputs(self) -> list[Port]:
        return [self.square("logits", 1)]

    def forward(self, f2: Tensor, f4: Tensor, f8: Tensor, f16: Tensor, f32: Tensor, prompts: Tensor) -> Tensor:
        """See the class."""
        return self.clicks.head([f2, f4, f8, f16, f32], prompts)


CLICK_GRAPHS = (ClickFeatures, ClickMask)
