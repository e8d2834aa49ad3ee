"""Where clicks, a box and the last mask lie in the square crop that the network sees.

A crop is a rectangle of the picture, stretched to a square; as in RITM (Sofiiuk et al., ICIP 2022) it is zoomed on what
is known of the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.float32]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels; x to the right, y down, the pixel at the upper left covers 0 to 1."""

RADIUS = 5
"""Of a click's disk, in pixels of the crop (RITM, section 3)."""
MARGIN = 1.4
"""Sides of a crop over those of the object (RITM's zoom-in)."""
_LEAST = 32
"""Shortest side of a crop in pixels of the picture: nothing is seen of smaller ones."""
_STRETCH = 2.0
"""Most by which a crop is longer one way than the other, where the picture has room."""


@dataclass(frozen=True, slots=True)
class Click:
    """A place in the picture, and whether the object is there.

    Attributes:
        x, y: in pixels, x to the right; whole numbers are the pixels' centres.
        positive: whether the object covers it.
    """

    x: float
    y: float
    positive: bool = True


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle inside a picture: rows top to bottom - 1, columns left to right - 1."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, image: Image, side: int) -> Image:
        """The picture's rectangle (H, W, C) as a square (side, side, C)."""
        return self._resized(image, side).astype(np.uint8, copy=False)

    def cut_mask(self, mask: Mask, side: int) -> Mask:
        """The rectangle of a mask (H, W), 0..1, as a square (side, side)."""
        return self._resized(mask, side).astype(np.float32, copy=False)

    def _resized(self, image: Image | Mask, side: int) -> NDArray[Any]:
        part = image[self.top : self.bottom, self.left : self.right]
        shrinks = part.shape[0] > side or part.shape[1] > side
        return cv2.resize(part, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def paste(self, logits: Mask, shape: tuple[int, int]) -> Mask:
        """Logits of the square (side, side) -> probabilities of the picture (H, W); 0 outside of the rectangle."""
        height, width = self.size
        inside = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
        mask = np.zeros(shape, np.float32)
        np.exp(np.negative(inside, out=inside), out=inside)
        inside += 1
        np.divide(1, inside, out=mask[self.top : self.bottom, self.left : self.right])
        return mask

    def place(self, click: Click, side: int) -> tuple[int, int]:
        """The pixel (x, y) of the square in which a click lies; outside of it for a click outside of the rectangle."""
        height, width = self.size
        x = (click.x + 0.5 - self.left) * side / width
        y = (click.y + 0.5 - self.top) * side / height
        return int(np.floor(x)), int(np.floor(y))


def whole(shape: tuple[int, int]) -> Window:
    """The window of a whole picture (H, W)."""
    return Window(0, 0, *shape)


def window_about(box: Box, shape: tuple[int, int], margin: float = MARGIN) -> Window:
    """The crop for an object in `box`, inside a picture (H, W): wider by `margin`, never very long, not tiny."""
    sides = [max(box[i + 2] - box[i], 1.0) * margin for i in (0, 1)]
    sides = [max(side, max(sides) / _STRETCH, _LEAST) for side in sides]
    ranges = []
    for axis, room in ((1, shape[0]), (0, shape[1])):
        centre, half = (box[axis] + box[axis + 2]) / 2, sides[axis] / 2
        low, high = int(np.floor(centre - half)), int(np.ceil(centre + half))
        # At the picture's edge the crop moves inwards rather than shrink.
        low, high = (low - max(0, high - room), high) if low > 0 else (low, high - min(0, low))
        ranges.append((max(low, 0), min(high, room)))
    (top, bottom), (left, right) = ranges
    return Window(top, left, bottom, right)


def snapped(window: Window, shape: tuple[int, int]) -> Window:
    """The window with its edges moved outwards to a coarse grid, so that small changes of a mask keep the crop."""
    step = 1 << max(int(np.log2(max(window.size) / 6)), 2)
    top, left = window.top // step * step, window.left // step * step
    bottom, right = -(-window.bottom // step) * step, -(-window.right // step) * step
    return Window(top, left, min(bottom, shape[0]), min(right, shape[1]))


def box_of(mask: NDArray[np.bool_]) -> Box | None:
    """The smallest box around a mask (H, W); None if it is empty."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    return (float(x), float(y), float(x + width), float(y + height)) if width else None


def prompt_planes(
    window: Window, side: int, clicks: Sequence[Click], box: Box | None, previous: Mask | None
) -> NDArray[np.float32]:
    """The network's prompts.

    Args:
        window: of the crop.
        side: of the square.
        clicks: in the picture.
        box: in the picture; None for none.
        previous: the last mask in the square (side, side), 0..1; None for none.

    Returns:
        (4, side, side): disks about positive clicks, disks about negative ones, the last mask, 1 outside of the box.
    """
    planes = np.zeros((4, side, side), np.float32)
    for click in clicks:
        cv2.circle(planes[0 if click.positive else 1], window.place(click, side), RADIUS, 1.0, cv2.FILLED)
    if previous is not None:
        planes[2] = previous
    if box is not None:
        height, width = window.size
        left, right = (max(round((x - window.left) * side / width), 0) for x in (box[0], box[2]))
        top, bottom = (max(round((y - window.top) * side / height), 0) for y in (box[1], box[3]))
        planes[3] = 1
        planes[3, top:bottom, left:right] = 0
    return planes
