"""What cameras and light do to a clip: colour, brightness, blur, grain."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..draw import Draw

_QUALITY = (15, 70)
"""Of JPEG."""
_BLUR = 4
"""Largest half length of a motion blur, in pixels."""


def film_look(images: Tensor, draw: Draw) -> Tensor:
    """(N, 3, H, W), 0..255 -> the same, changed alike in all frames but for a little."""
    frames = len(images)
    images = images * draw.uniforms(0.8, 1.2, 3, 1, 1) * draw.uniform(0.8, 1.2)
    images = images * draw.uniforms(0.95, 1.05, frames, 1, 1, 1)
    if draw.chance(0.05):
        images = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    always = draw.chance(0.1)
    blurred = [
        motion_blur(image, draw.uniform(1, _BLUR), draw.uniform(0, math.pi)) if always or draw.chance(0.12) else image
        for image in images
    ]
    images = torch.stack(blurred)
    images = images + draw.noise(draw.uniform(0, 6), frames, 1, *images.shape[2:])
    return images.clamp(0, 255)


def compress(images: Tensor, draw: Draw) -> Tensor:
    """(N, 3, H, W), 0..255, written as JPEG and read again, all frames alike."""
    quality = draw.index(_QUALITY[1] - _QUALITY[0]) + _QUALITY[0]
    rounded = images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    decoded = []
    for image in rounded:
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))))
    return torch.stack(decoded).permute(0, 3, 1, 2).to(images)


def motion_blur(image: Tensor, length: float, angle: float) -> Tensor:
    """(3, H, W) averaged along a line of `length` pixels to both sides; the border is repeated."""
    offsets = torch.arange(-_BLUR, _BLUR + 1, dtype=torch.float32)
    y, x = torch.meshgrid(offsets, offsets, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    kernel = (1 - across.abs()).clamp(min=0) * (length + 0.5 - along.abs()).clamp(0, 1)
    kernel = (kernel / kernel.sum()).to(image.device)
    padded = F.pad(image[:, None], (_BLUR,) * 4, mode="replicate")
    return F.conv2d(padded, kernel[None, None])[:, 0]
