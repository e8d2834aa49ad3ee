"""What distinguishes one JOINT network from another."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of one network; two are named: `paper` (section 4.1) and `lite` (shipped).

    Attributes:
        backbone: name of the trunk, a key of `backbone.BACKBONES`.
        feature_channels: C, channels of x_tra and x_ind (res3 reduced, section 4.1).
        key_channels: channels of queries and keys (section 3.2).
        encoding_channels: D, channels of the mask encodings and of W.
        filter_size: K, side of the target model's filter omega (section 3.3).
        temperature: tau of eq. 1.
        decoder_width: channels of the finest decoder layer; the four layers have 1, 2, 2, 4 times as many.
        label_heads: 2 for separate E_ind and E_tra (section 3.4), 1 for the shared head of Table 2.
        crop_size: (height, width) in pixels that crops are resized to; multiples of 32.
        search_factor: side of the crop over side of the target (5, section 4.1).
    """

    backbone: str = "resnet50"
    feature_channels: int = 512
    key_channels: int = 128
    encoding_channels: int = 16
    filter_size: int = 3
    temperature: float = 1 / 30
    decoder_width: int = 64
    label_heads: int = 2
    crop_size: tuple[int, int] = (480, 832)
    search_factor: float = 5.0

    STRIDE = 16
    """Pixels of the crop per cell of the features that both branches work on (res3)."""

    @property
    def feature_size(self) -> tuple[int, int]:
        """(h, w) of x_tra, x_ind and the mask encodings."""
        height, width = self.crop_size
        return height // self.STRIDE, width // self.STRIDE

    @classmethod
    def named(cls, name: str) -> Self:
        """The configuration called `paper` or `lite`.

        Raises:
            ValueError: there is none of that name.
        """
        if name not in _NAMED:
            raise ValueError(f"no model is called {name!r}: choose one of {', '.join(_NAMED)}")
        return cls(**_NAMED[name])

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {**asdict(self), "crop_size": list(self.crop_size)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The reverse of `to_dict`.

        Raises:
            ValueError: a field is unknown.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown model settings: {', '.join(unknown)}")
        values = dict(values)
        if "crop_size" in values:
            height, width = values["crop_size"]
            values["crop_size"] = (int(height), int(width))
        return cls(**values)


_NAMED: dict[str, dict[str, Any]] = {
    "paper": {},
    "lite": {
        "backbone": "efficientnet_lite0",
        "feature_channels": 128,
        "key_channels": 64,
        "decoder_width": 32,
        "crop_size": (256, 448),
    },
}
