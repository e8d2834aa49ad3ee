"""The two-head label encoder E_theta (section 3.4): a mask in, mask encodings and importance weights out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F


class LabelEncodings(NamedTuple):
    """What the label encoder says of a mask; each (B, D, h, w)."""

    E_ind: Tensor
    """Few-shot labels of the induction branch, eq. 6."""
    W: Tensor
    """Element-wise importance of the few-shot residuals, eq. 6."""
    E_tra: Tensor
    """Values of the transduction branch, eq. 5."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions without normalisation; the shortcut is a strided 3x3 with bias."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, 2, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.downsample = nn.Conv2d(channels, out, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H / 2, W / 2)."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.downsample(x))


class LabelEncoder(nn.Module):
    """Two towers over a common stem; with one head both branches share the first tower's encoding (Table 2)."""

    def __init__(self, encoding_channels: int, heads: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.tower_ind = nn.Sequential(ResidualBlock(16, 32), ResidualBlock(32, 64))
        self.head_E_ind = nn.Sequential(nn.Conv2d(64, encoding_channels, 3, padding=1), nn.ReLU())
        self.head_W = nn.Conv2d(64, encoding_channels, 3, padding=1)
        if heads == 2:
            self.tower_tra = nn.Sequential(ResidualBlock(16, 32), ResidualBlock(32, 64))
            self.head_E_tra = nn.Sequential(nn.Conv2d(64, encoding_channels, 3, padding=1), nn.ReLU())
        self.heads = heads

    def forward(self, masks: Tensor) -> LabelEncodings:
        """(B, 1, H, W) probabilities, not thresholded -> encodings at 1/16."""
        stem = self.stem(masks)
        tower = self.tower_ind(stem)
        E_ind = self.head_E_ind(tower)
        E_tra = self.head_E_tra(self.tower_tra(stem)) if self.heads == 2 else E_ind
        return LabelEncodings(E_ind, self.head_W(tower), E_tra)
