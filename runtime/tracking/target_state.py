"""Where a target is and how large: from its mask at first, then from the moments of its probability map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..settings import MIN_AREA
from .crop import Vector, vector

SCALE_CHANGE = (0.95, 1.1)
"""Largest change of scale from one frame to the next."""
SIZE_IN_DEVIATIONS = 4.0
"""A target's side in standard deviations of its mask."""


_ROOTS = {480 * 832: 631.9494018554688}
"""Square roots of crop areas that the released tracker's library (MKL) returns one unit in the last place high.

Every later scale is relative to the first, and its last bits decide where windows are cut.
"""


def _root(area: int) -> np.float32:
    return np.float32(_ROOTS.get(area) or np.sqrt(np.float32(area)))


@dataclass(slots=True)
class TargetState:
    """Position and scale of one target; vectors are (row, column) in pixels of the frame.

    Attributes:
        pos: centre.
        target_scale: pixels of the frame per pixel of the crop.
        base_target_size: the target's size in a crop at its first frame.
    """

    pos: Vector
    target_scale: np.float32
    base_target_size: Vector = field(repr=False)

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_], crop_size: tuple[int, int], search_factor: float) -> TargetState:
        """The state at an object's first frame, from a mask (H, W) with at least one pixel."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        corner = vector((rows[0], columns[0]))
        # Largest minus smallest index, without the pixel itself: the released boxes are one pixel short, so that a
        # target one pixel high or wide has no extent and needs a floor.
        size = np.maximum(vector((rows[-1], columns[-1])) - corner, np.float32(1))
        pos = corner + (size - np.float32(1)) / np.float32(2)
        area = np.prod(size * np.float32(search_factor), dtype=np.float32)
        scale = np.float32(1) / _root(crop_size[0] * crop_size[1]) * np.sqrt(area)
        return cls(pos, np.float32(scale), size / np.float32(scale))

    def update(self, probability: NDArray[np.float32], origin: tuple[int, int], min_area: float = MIN_AREA) -> None:
        """Move to the mass of a probability map (h, w), whose first pixel lies at `origin` in the frame.

        Below a mass of `min_area` pixels, place and size stay.
        """
        by_row = probability.sum(1, dtype=np.float64)
        by_column = probability.sum(0, dtype=np.float64)
        total = by_row.sum()
        if total < min_area or not total:
            return
        centre, deviation = np.empty(2), np.empty(2)
        for axis, marginal in enumerate((by_row, by_column)):
            index = np.arange(marginal.size, dtype=np.float64)
            centre[axis] = (index * marginal).sum() / total
            deviation[axis] = np.sqrt((np.square(index - centre[axis]) * marginal).sum() / total)
        self.pos = vector(centre + origin)
        size = vector(SIZE_IN_DEVIATIONS * deviation)
        new_scale = np.sqrt(np.prod(size) / np.prod(self.base_target_size))
        least, most = (self.target_scale * np.float32(limit) for limit in SCALE_CHANGE)
        self.target_scale = np.float32(min(max(new_scale, least), most))
