"""The two graphs of a click network: what is computed once for a crop, and what for every click."""

from __future__ import annotations

from torch import Tensor, nn

from ...model.clicks import PROMPTS, ClickNet
from ...runtime.manifest import Port
from .graph import Graph

STRIDES = (2, 4, 8, 16, 32)


class ClickGraph(Graph):
    """One of them."""

    def __init__(self, net: ClickNet) -> None:
        nn.Module.__init__(self)
        self.clicks = net

    def port(self, name: str) -> Port:
        """Of the crop's size, or a feature's, which is named by its stride."""
        config = self.clicks.config
        channels = {"crop": 3, "prompts": len(PROMPTS), "logits": 1}
        channels |= {f"f{stride}": width for stride, width in zip(STRIDES, config.widths, strict=True)}
        side = config.crop // (int(name[1:]) if name not in ("crop", "prompts", "logits") else 1)
        return Port(name=name, shape=("B", channels[name], side, side))


class ClickFeatures(ClickGraph):
    """crop (B, 3, S, S) RGB 0..255 -> features at strides 2 to 32."""

    name = "features"
    takes = "crop"
    gives = "f2 f4 f8 f16 f32"

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        return tuple(self.clicks.project(self.clicks.layers(crop)))


class ClickMask(ClickGraph):
    """Features and prompts (B, 4, S, S) -> logits (B, 1, S, S)."""

    name = "mask"
    takes = "f2 f4 f8 f16 f32 prompts"
    gives = "logits"

    def forward(self, f2: Tensor, f4: Tensor, f8: Tensor, f16: Tensor, f32: Tensor, prompts: Tensor) -> Tensor:
        """See the class."""
        return self.clicks.head([f2, f4, f8, f16, f32], prompts)


CLICK_GRAPHS = (ClickFeatures, ClickMask)
