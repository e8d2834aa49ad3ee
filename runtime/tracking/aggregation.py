"""Soft aggregation of several objects' scores (section 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from .crop import OUTSIDE

GIVEN = 100.0
"""Score of a pixel inside a given mask; its negative outside (section 3.5, as the released tracker has it)."""

_EPS = np.float32(1e-7)
_ONE = np.float32(1)
_BLOCK = 1 << 16
"""Numbers that are aggregated at a time, so that all steps find them in the cache."""

Region = tuple[slice, slice]
"""Rows and columns of the frame."""


@dataclass(frozen=True, slots=True)
class PastedScores:
    """A crop's scores in the frame: (h, w) and the (rows, columns) they cover; `crop.OUTSIDE` elsewhere."""

    scores: NDArray[np.float32]
    region: Region

    @classmethod
    def given(cls, mask: NDArray[np.bool_]) -> Self:
        """Of a mask (H, W) with at least one pixel that a person gave."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        region = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        return cls(np.where(mask[region], np.float32(GIVEN), np.float32(-GIVEN)), region)


def merge(
    pasted: Sequence[PastedScores],
    ids: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> Region:
    """Soft aggregation where any object's scores lie, in one pass over blocks of rows.

    Elsewhere the objects' merged probability is zero in fp32.

    Args:
        pasted: of K objects.
        ids: (K + 1,), of background and objects.
        probabilities: (K, H, W), written in the region.
        labels: (H, W), written in the region.

    Returns:
        The region.
    """
    rows, columns = _union([p.region for p in pasted if p.scores.size])
    height, width = _rows_at_a_time(columns.stop - columns.start, len(pasted)), columns.stop - columns.start
    scores = np.empty((len(pasted), height, width), np.float32)
    merged = np.empty((len(pasted) + 1, height, width), np.float32)
    for first in range(rows.start, rows.stop, height):
        block = slice(first, min(first + height, rows.stop))
        part, whole = scores[:, : block.stop - first], merged[:, : block.stop - first]
        present = [_place(p, canvas, block, columns) for p, canvas in zip(pasted, part, strict=True)]
        soft_aggregation(part, present, whole)
        probabilities[:, block, columns] = whole[1:]
        labels[block, columns] = strongest(whole, ids)
    return rows, columns


def soft_aggregation(
    scores: NDArray[np.float32], present: Sequence[bool] | None = None, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Merged probabilities of background and objects.

    The background's probability is the product of the objects' complements, kept 1e-7 away from 0 and 1; the merged
    probability is the softmax of the background's logit and the scores. With one object it is sigmoid(2 s).

    Args:
        scores: logits (K, h, w) of K objects; +100 and -100 stand for given masks.
        present: which objects have any score but `crop.OUTSIDE`, whose complement is one, to the bit; all if None.
        out: where the result is written.

    Returns:
        (K + 1, h, w), the background first; argmax over the first axis gives the label.
    """
    merged = np.empty((len(scores) + 1, *scores.shape[1:]), np.float32) if out is None else out
    background, objects = merged[0], merged[1:]
    background.fill(1)
    for i in range(len(scores)) if present is None else np.flatnonzero(present):
        background *= _complement(scores[i], objects[i])
    np.clip(background, _EPS, _ONE - _EPS, out=background)
    np.divide(background, _ONE - background, out=background)
    np.log(background, out=background)
    np.copyto(objects, scores)
    merged -= merged.max(axis=0)
    np.exp(merged, out=merged)
    merged /= merged.sum(axis=0)
    return merged


def strongest(merged: NDArray[np.float32], ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Of several maps (K, h, w), at most 256, the id (K,) of the largest, the first where they are equal: (h, w)."""
    count = len(merged)
    winners = (merged == merged.max(axis=0)).view(np.uint8)
    # The first has the largest rank, so that ties need no comparison.
    winners *= np.arange(count - 1, -1, -1, dtype=np.uint8)[:, None, None]
    table = np.zeros(256, np.uint8)
    table[:count] = ids[::-1]
    rank = winners.max(axis=0)
    labels: NDArray[np.uint8] = cv2.LUT(rank, table) if rank.size else rank  # type: ignore[assignment]
    return labels


def _union(regions: Sequence[Region]) -> Region:
    rows, columns = (
        slice(min((r[axis].start for r in regions), default=0), max((r[axis].stop for r in regions), default=0))
        for axis in (0, 1)
    )
    return rows, columns


def _rows_at_a_time(width: int, objects: int) -> int:
    return 1 + _BLOCK // (1 + width * (objects + 1))


def _place(pasted: PastedScores, canvas: NDArray[np.float32], block: slice, columns: slice) -> bool:
    """An object's scores in a block of rows; whether there are any."""
    own_rows, own_columns = pasted.region
    top, bottom = max(own_rows.start, block.start), min(own_rows.stop, block.stop)
    if top >= bottom or not pasted.scores.size:
        canvas.fill(OUTSIDE)
        return False
    left, right = own_columns.start - columns.start, own_columns.stop - columns.start
    if (top, bottom, left, right) != (block.start, block.stop, 0, canvas.shape[1]):
        canvas.fill(OUTSIDE)
    canvas[top - block.start : bottom - block.start, left:right] = pasted.scores[
        top - own_rows.start : bottom - own_rows.start
    ]
    return True


def _complement(scores: NDArray[np.float32], out: NDArray[np.float32]) -> NDArray[np.float32]:
    """One minus the sigmoid."""
    np.negative(scores, out=out)
    with np.errstate(over="ignore"):
        np.exp(out, out=out)
    out += _ONE
    np.divide(_ONE, out, out=out)
    return np.subtract(_ONE, out, out=out)
