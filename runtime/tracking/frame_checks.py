"""Checks of what a segmenter is given with a frame."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MaskError, SettingsError


def check_frame(frame: NDArray[np.uint8], size: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The frame, (H, W, 3) uint8, of the size of those before it.

    Raises:
        SettingsError: it is something else.
    """
    if not isinstance(frame, np.ndarray):
        raise SettingsError(f"the frame is {_found(frame)}: expected a NumPy array (height, width, 3) uint8, RGB")
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or not frame.size:
        raise SettingsError(f"the frame is {frame.shape} {frame.dtype}: expected (height, width, 3) uint8, RGB")
    if size is not None and frame.shape[:2] != size:
        raise SettingsError(
            f"the frame is {frame.shape[1]}x{frame.shape[0]}, the frames before were {size[1]}x{size[0]}: "
            "call reset() before another video"
        )
    return frame


def _found(value: object) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__.partition('.')[0]} {kind.__name__}"
    shape = getattr(value, "shape", None) or getattr(value, "size", None)
    return "None" if value is None else f"a {name}" + (f" {tuple(shape)}" if isinstance(shape, tuple | list) else "")


def ids_in(mask: NDArray[Any], size: tuple[int, ...]) -> list[int]:
    """Ids of a label map, ascending, without the background.

    Raises:
        MaskError: it has another size than the frame, another type, or ids beyond 255.
    """
    if not isinstance(mask, np.ndarray):
        raise MaskError(f"the mask is {_found(mask)}: expected a NumPy array (height, width) of ids")
    if mask.shape != size:
        found = "x".join(str(n) for n in reversed(mask.shape))
        raise MaskError(f"the mask is {found}, the frame {size[1]}x{size[0]}: expected one id per pixel of the frame")
    if mask.dtype.kind not in "uib":
        raise MaskError(f"the mask holds {mask.dtype}: expected whole numbers, 0 for the background")
    ids = np.unique(mask).tolist()
    if ids[0] < 0 or ids[-1] > 255:
        raise MaskError(f"the mask has ids from {ids[0]} to {ids[-1]}: expected 0 to 255")
    return [int(i) for i in ids if i]


def warn_of_unused(given: Sequence[int], followed: Collection[int], correct: bool) -> None:
    """Say what of a mask has no effect: ids that are followed already, or all of it, as it has none.

    Args:
        given: ids in the mask.
        followed: ids of the objects before it.
        correct: whether ids that are followed are corrected.
    """
    ignored = [] if correct else [i for i in given if i in followed]
    if not given:
        text = "an empty mask was given, which changes nothing: use remove() to end an object"
    elif ignored:
        text = (
            f"of the mask's ids {', '.join(map(str, ignored))} changed nothing, as they are followed already: give it "
            "with correct=True to correct objects"
        )
    else:
        return
    own, level, caller = __name__.partition(".")[0], 1, sys._getframe()
    while caller.f_back is not None and str(caller.f_globals.get("__name__")).partition(".")[0] == own:
        level, caller = level + 1, caller.f_back
    warnings.warn(text, stacklevel=level)


def nothing_to_follow(mask: NDArray[Any] | None) -> MaskError:
    """The error of a first frame without an object."""
    return MaskError(
        "no object to follow: expected a mask with at least one id above 0 with the first frame, found "
        + ("none" if mask is None else "an empty one")
    )
