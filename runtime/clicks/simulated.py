"""The person who clicks, simulated: the next click goes into the middle of the largest error (RITM, section 4)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from .prompts import Click

Region = NDArray[np.bool_]


def next_click(true: Region, found: Region, clicks: Sequence[Click] = ()) -> Click | None:
    """The middle of the widest error of `found`.

    Missing and surplus pixels are looked at apart; the pixel that lies farthest from the rim of either is clicked. The
    picture's edge is a rim too. A place that was clicked already is not clicked again.

    Args:
        true, found: (H, W).
        clicks: so far.

    Returns:
        None where nothing is wrong.
    """
    free = np.ones(true.shape, np.bool_)
    for click in clicks:
        free[round(click.y), round(click.x)] = False
    missing, surplus = depth(true & ~found) * free, depth(found & ~true) * free
    positive = missing.max() > surplus.max() or (missing.max() == surplus.max() > 0)
    depths = missing if positive else surplus
    if depths.max() <= 0:
        return None
    y, x = np.unravel_index(int(depths.argmax()), depths.shape)
    return Click(float(x), float(y), bool(positive))


def depth(region: Region) -> NDArray[np.float32]:
    """Distance of every pixel of a region (H, W) from what is not of it, 0 elsewhere."""
    padded = cv2.copyMakeBorder(region.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1], np.float32)
