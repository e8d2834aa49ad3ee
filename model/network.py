"""JOINT as a whole (section 3.1, Figure 2)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from .backbone import BACKBONES
from .config import ModelConfig
from .decoder import Decoder
from .label_encoder import LabelEncoder
from .target_model import InstanceL2Norm, TargetModel, feature_scale
from .transformer import Transformer


class Features(NamedTuple):
    """What both branches and the decoder take from one crop."""

    layers: list[Tensor]
    """Layers 1 to 4 of the trunk, at strides 4, 8, 16, 32."""
    x_tra: Tensor
    """(B, C, h, w), of the transduction branch."""
    x_ind: Tensor
    """(B, C, h, w), of the induction branch."""


class JointNet(nn.Module):
    """The network; its parts are called one by one, as the memory between them is the caller's."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        C, D = config.feature_channels, config.encoding_channels
        self.backbone = BACKBONES[config.backbone]()
        res3 = self.backbone.channels[2]
        self.adjust_tra = nn.Sequential(nn.Conv2d(res3, C, 3, padding=1, bias=False))
        self.adjust_ind = nn.Sequential(
            nn.Conv2d(res3, C, 3, padding=1, bias=False), InstanceL2Norm(feature_scale(C, config.filter_size))
        )
        self.label_encoder = LabelEncoder(D, config.label_heads)
        self.transformer = Transformer(C, config.key_channels, config.temperature)
        self.target_model = TargetModel(config.filter_size)
        self.decoder = Decoder(self.backbone.channels, D, config.decoder_width)

    def extract(self, images: Tensor) -> Features:
        """Crops (B, 3, H, W), RGB 0..255 -> features."""
        layers = self.backbone(images)
        return Features(layers, self.adjust_tra(layers[2]), self.adjust_ind(layers[2]))
