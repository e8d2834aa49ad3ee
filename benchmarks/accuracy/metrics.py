"""Region similarity J, boundary accuracy F and their statistics over a sequence.

The definitions are those of Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation" (CVPR 2016), in the details as the DAVIS 2017 evaluation tool computes them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...runtime.video.overlap import mask_iou

BOUNDARY_TOLERANCE = 0.008
"""Distance at which two boundaries still match, as a share of the image's diagonal."""
RECALL_THRESHOLD = 0.5
"""Score above which a frame counts as recalled."""


class Statistics(NamedTuple):
    """How a score runs over a sequence.

    Attributes:
        mean: over the frames.
        recall: share of the frames whose score is above `RECALL_THRESHOLD`.
        decay: mean of the first quarter of the frames less mean of the last quarter.
    """

    mean: float
    recall: float
    decay: float


def region_similarity(truth: NDArray[Any], result: NDArray[Any]) -> float:
    """J, the intersection over the union of two masks; 1 if both are empty.

    Args:
        truth: (H, W), everything that is not zero is the object.
        result: (H, W), likewise.
    """
    return mask_iou(truth != 0, result != 0)


def boundary_accuracy(truth: NDArray[Any], result: NDArray[Any]) -> float:
    """F, the harmonic mean of precision and recall of the boundary.

    A boundary pixel matches if a pixel of the other boundary lies in the disk around it, whose radius is
    `BOUNDARY_TOLERANCE` of the diagonal, rounded up. 1 if neither mask has a boundary, 0 if only one has.

    Args:
        truth: (H, W), everything that is not zero is the object.
        result: (H, W), likewise.
    """
    true_boundary, found_boundary = boundary(truth), boundary(result)
    region = _bounding_region(true_boundary | found_boundary)
    if region is None:
        return 1.0
    disk = _disk(math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape)))
    true_boundary, found_boundary = true_boundary[region], found_boundary[region]
    precision = _matched_share(found_boundary, true_boundary, disk)
    recall = _matched_share(true_boundary, found_boundary, disk)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Boundary map of a mask (H, W), 0 or 1: the pixels that differ from their right, lower or lower right neighbour.

    Neighbours outside the image count as equal. This is the rule of the Berkeley benchmark's `seg2bmap`.
    """
    inside = (mask != 0).view(np.uint8)
    padded = cv2.copyMakeBorder(inside, 0, 1, 0, 1, cv2.BORDER_REPLICATE)
    right, below, beyond = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.asarray((inside ^ right) | (inside ^ below) | (inside ^ beyond), np.uint8)


def statistics(scores: ArrayLike) -> Statistics:
    """Mean, recall and decay of the scores (n,) of a sequence's frames.

    The quarters share the frames where they meet. For up to 256 frames all three equal the DAVIS tool's; beyond, its
    decay is another one, or not a number, because it keeps the quarters' ends in 8 bits.
    """
    values = np.asarray(scores, np.float64)
    ends = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.intp)
    first, last = values[ends[0] : ends[1] + 1], values[ends[3] : ends[4] + 1]
    recalled = values > RECALL_THRESHOLD
    return Statistics(float(values.mean()), float(recalled.mean()), float(first.mean() - last.mean()))


def _bounding_region(pixels: NDArray[np.uint8]) -> tuple[slice, slice] | None:
    x, y, width, height = cv2.boundingRect(pixels)
    return (slice(y, y + height), slice(x, x + width)) if width else None


def _matched_share(pixels: NDArray[np.uint8], others: NDArray[np.uint8], disk: NDArray[np.uint8]) -> float:
    """Share of `pixels` that have one of `others` within the disk; 1 if there are none."""
    count = cv2.countNonZero(pixels)
    near = np.asarray(cv2.dilate(others, disk), np.uint8)
    return cv2.countNonZero(pixels & near) / count if count else 1.0


@cache
def _disk(radius: int) -> NDArray[np.uint8]:
    row, column = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(row**2 + column**2 <= radius**2, np.uint8)
