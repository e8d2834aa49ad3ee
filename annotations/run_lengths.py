"""COCO's compressed run lengths, by pycocotools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DependencyError, MaskError


def import_rle() -> Any:
    """The module `pycocotools.mask`.

    Raises:
        DependencyError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise DependencyError("pycocotools is not installed: run `pip install 'jointrt[annotations]'`") from None
    return mask


def to_rle(labels: NDArray[np.uint8]) -> dict[int, str]:
    """Run lengths of every object in a label map (H, W), by id; they read down the columns.

    Raises:
        DependencyError: pycocotools is not installed.
    """
    rle = import_rle()
    ids = [int(i) for i in np.unique(labels) if i]
    return {i: rle.encode(np.asfortranarray(labels == i))["counts"].decode("ascii") for i in ids}


def from_rle(runs: Mapping[int, str], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The label map of `size` (H, W) whose objects have these run lengths; where they overlap, the last one's.

    Raises:
        DependencyError: pycocotools is not installed.
        MaskError: an id is none of 1 to 255, or run lengths are damaged or those of another size.
    """
    rle = import_rle()
    labels = np.zeros(size, np.uint8)
    for object_id, counts in runs.items():
        if not 0 < object_id < 256:
            raise MaskError(f"an object has the id {object_id}: expected 1 to 255")
        code = {"size": list(size), "counts": counts.encode()}
        # Of damaged run lengths, pycocotools writes as many pixels as they say.
        if covered_pixels(counts) != size[0] * size[1]:
            raise MaskError(
                f"run lengths of object {object_id} are damaged, or of another size than {size[1]}x{size[0]}"
            )
        labels[rle.decode(code) > 0] = object_id
    return labels


def covered_pixels(counts: str) -> int:
    """The sum of compressed run lengths; -1 if they are damaged.

    Five bits a character from the lowest on, the sixth says that more follow; from the third run on, what is kept is
    the difference to the run before the last (pycocotools' `rleFrString`).
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return -1
        runs.append(value)
        value, shift = 0, 0
    return -1 if shift else sum(runs)
