"""What a graph of a bundle is: a part of the network with named ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from ...model.config import ModelConfig
from ...model.network import JointNet
from ...runtime.manifest import Port


class Graph(nn.Module):
    """A part of the network in the form that is exported.

    Attributes:
        takes: names of the inputs in the order of `forward`'s arguments, separated by spaces.
        gives: names of the outputs in the order of what `forward` returns.
    """

    name: ClassVar[str]
    takes: ClassVar[str]
    gives: ClassVar[str]

    def __init__(self, net: JointNet) -> None:
        super().__init__()
        self.net = net
        self.config: ModelConfig = net.config

    def inputs(self) -> list[Port]:
        """The ports of what it takes."""
        return [self.port(name) for name in self.takes.split()]

    def outputs(self) -> list[Port]:
        """The ports of what it gives."""
        return [self.port(name) for name in self.gives.split()]

    def named(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name, from inputs by name; other values are passed over."""
        found = self(*(values[name] for name in self.takes.split()))
        return dict(zip(self.gives.split(), found if isinstance(found, tuple) else (found,), strict=True))

    @property
    def cells(self) -> int:
        """h*w."""
        h, w = self.config.feature_size
        return h * w

    def port(self, name: str) -> Port:
        """The port of that name; one name has one shape in all graphs."""
        config, n = self.config, self.cells
        H, W = config.crop_size
        K2D = config.filter_size**2 * config.encoding_channels
        tokens = {
            "features": config.feature_channels,
            "key": config.key_channels,
            "encoding": config.encoding_channels,
            "scalar": 1,
        }
        kinds = {
            **dict.fromkeys(
                ("x_tra", "x_ind", "z", "z_new", "z_old", "C", "C_new", "C_next", "C_new_next", "C_old", "C_term"),
                "features",
            ),
            **dict.fromkeys(("query", "key", "key_new", "key_old", "key_cross"), "key"),
            **dict.fromkeys(("E_ind", "W", "E_tra", "E_tra_star", "numerator"), "encoding"),
            **dict.fromkeys(("D", "D_new", "D_next", "D_new_next", "D_old", "D_term", "denominator"), "scalar"),
        }
        if name in kinds:
            return Port(name=name, shape=("B", n, tokens[kinds[name]]))
        layers = self.net.backbone.channels
        shapes: dict[str, tuple[int | str, ...]] = {
            "crop": ("B", 3, H, W),
            "mask": ("B", 1, H, W),
            "logits": ("B", 1, H, W),
            **{f"layer{i}": ("B", layers[i - 1], H >> (i + 1), W >> (i + 1)) for i in (1, 2, 3, 4)},
            "omega": ("B", K2D, config.feature_channels),
            "omega_next": ("B", K2D, config.feature_channels),
            "z_ind": ("B", "N", n, config.feature_channels),
            "E_ind_all": ("B", "N", n, config.encoding_channels),
            "W_all": ("B", "N", n, config.encoding_channels),
            **dict.fromkeys(("weights", "residual", "residual_next"), ("B", config.encoding_channels, "N", n)),
            "sample_weights": ("B", "N"),
            **dict.fromkeys(("E_tra_several", "numerators"), ("B", n, "V")),
        }
        return Port(name=name, shape=shapes[name])
