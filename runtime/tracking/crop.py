"""Cutting a target's surroundings out of a frame, and pasting its scores back.

The arithmetic follows the released tracker step by step, in fp32 and with its roundings; positions and sizes are
(row, column) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
"""(row, column)."""

OUTSIDE = -100.0
"""Score of a pixel that the crop does not cover."""


SIZE_TOLERANCE = np.float32(1 + 2**-21)
"""Relative noise of a sample's size: four units in the last place."""


def vector(values: Any) -> Vector:
    """A (row, column) pair in fp32."""
    return np.asarray(values, dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of the frame, possibly reaching beyond it, in steps of `stride` pixels.

    Attributes:
        top, left, bottom, right: in the grid of every `stride`-th pixel.
        stride: pixels skipped per step; images much larger than the crop are thinned before they are resized.
        offset: (row, column) of the grid's first pixel.
    """

    top: int
    left: int
    bottom: int
    right: int
    stride: int
    offset: tuple[int, int]

    @property
    def values(self) -> tuple[int, ...]:
        """Top, left, bottom, right, stride, and the offset's row and column."""
        return (self.top, self.left, self.bottom, self.right, self.stride, *self.offset)

    @property
    def coordinates(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right in pixels of the frame, without the grid's offset, as the released code reports."""
        return tuple(self.stride * v for v in (self.top, self.left, self.bottom, self.right))  # type: ignore[return-value]


def place_window(
    image_size: tuple[int, int],
    pos: Vector,
    sample_size: Vector,
    output_size: tuple[int, int],
    keep_inside: bool,
    steady: bool = False,
) -> Window:
    """The rectangle of `sample_size` about `pos`.

    Args:
        image_size: (height, width) of the frame.
        pos: centre; truncated to whole pixels.
        sample_size: side lengths before rounding.
        output_size: what the rectangle will be resized to; decides the thinning.
        keep_inside: shrink the rectangle and move it so that at least one axis stays within the frame (the released
            code's `inside_major`); otherwise it may reach beyond (`replicate`).
        steady: let no last bit of a scale take a pixel off a window that is shrunk to the frame either; the released
            code's windows flip there from frame to frame and from machine to machine.
    """
    size = vector(image_size)
    sample = vector(sample_size)
    if keep_inside:
        shrink = np.float32((sample / size).min())
        # Where the window is not shrunk its size comes from a probability map's moments, whose last bits are noise:
        # a size that an exact computation puts on a whole number must not lose a pixel to them.
        shrunk = sample / shrink * (SIZE_TOLERANCE if steady else np.float32(1))
        sample = np.trunc(shrunk if shrink > 1 else sample * SIZE_TOLERANCE)
    centre = np.trunc(vector(pos)).astype(np.int64)
    ratio = np.float32((sample / vector(output_size)).min())
    stride = max(int(ratio - np.float32(0.1)), 1)
    sample = sample / np.float32(stride)
    grid = np.asarray(image_size, dtype=np.int64)
    offset = np.zeros(2, dtype=np.int64)
    if stride > 1:
        offset = centre % stride
        centre = (centre - offset) // stride
        grid = -((offset - grid) // stride)
    length = np.maximum(np.rint(sample), 2).astype(np.int64)
    start = centre - (length - 1) // 2
    stop = centre + length // 2 + 1
    if keep_inside:
        shift = np.maximum(-start, 0) - np.maximum(stop - grid, 0)
        start, stop = start + shift, stop + shift
        outside = (np.maximum(-start, 0) + np.maximum(stop - grid, 0)) // 2
        shift = (-start - outside) * (outside > 0)
        start, stop = start + shift, stop + shift
    (top, left), (bottom, right) = start.tolist(), stop.tolist()
    return Window(top, left, bottom, right, stride, (int(offset[0]), int(offset[1])))


def whole_window(image_size: tuple[int, int], output_size: tuple[int, int]) -> Window:
    """The window of the output's shape that just holds the whole frame, as steady windows shrunk to it are cut."""
    size = vector(image_size)
    sample = vector(output_size) * np.float32(2 * (size / vector(output_size)).max())
    return place_window(image_size, size / np.float32(2), sample, output_size, keep_inside=True, steady=True)


def cut_image(image: NDArray[np.uint8], window: Window, output_size: tuple[int, int]) -> NDArray[np.float32]:
    """Image (H, W, 3) uint8 -> crop (*output_size, 3) fp32, bilinear, the frame's border repeated outside."""
    patch = _cut(image, window, cv2.BORDER_REPLICATE).astype(np.float32)
    height, width = output_size
    if patch.shape[:2] == output_size:
        return patch
    crop: Any = cv2.resize(patch, (width, height), interpolation=cv2.INTER_LINEAR)
    return crop


def cut_mask(mask: NDArray[np.float32], window: Window, output_size: tuple[int, int]) -> NDArray[np.float32]:
    """Mask (H, W) fp32 -> crop (*output_size) fp32, nearest, zeros outside."""
    patch = _cut(mask, window, cv2.BORDER_CONSTANT)
    if patch.shape == output_size:
        return np.ascontiguousarray(patch)
    rows, columns = (_nearest(n, out) for n, out in zip(patch.shape, output_size, strict=True))
    return np.ascontiguousarray(patch[rows][:, columns])


def _nearest(size: int, output_size: int) -> NDArray[np.int64]:
    """Source indices of torch's `nearest` interpolation."""
    scale = np.float32(size) / np.float32(output_size)
    indices = np.floor(np.arange(output_size, dtype=np.float32) * scale).astype(np.int64)
    return np.minimum(indices, size - 1)


def _cut(array: NDArray[Any], window: Window, border: int) -> NDArray[Any]:
    grid = array[window.offset[0] :: window.stride, window.offset[1] :: window.stride]
    height, width = grid.shape[:2]
    before = (max(-window.top, 0), max(-window.left, 0))
    after = (max(window.bottom - height, 0), max(window.right - width, 0))
    inside = grid[max(window.top, 0) : max(window.bottom, 0), max(window.left, 0) : max(window.right, 0)]
    if not inside.size:
        return _cut_outside(grid, window, border)
    if not any(before) and not any(after):
        return inside
    return cv2.copyMakeBorder(np.ascontiguousarray(inside), before[0], after[0], before[1], after[1], border, value=0)


def _cut_outside(grid: NDArray[Any], window: Window, border: int) -> NDArray[Any]:
    """A window that does not meet the frame sees nothing but its border."""
    shape = (window.bottom - window.top, window.right - window.left, *grid.shape[2:])
    if border == cv2.BORDER_CONSTANT:
        return np.zeros(shape, dtype=grid.dtype)
    rows = np.arange(window.top, window.bottom).clip(0, grid.shape[0] - 1)
    columns = np.arange(window.left, window.right).clip(0, grid.shape[1] - 1)
    return grid[rows][:, columns]


def paste_scores(
    logits: NDArray[np.float32],
    sample_pos: Vector,
    sample_scale: np.float32,
    image_size: tuple[int, int],
    resize: Literal["given", "ratio"],
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """Logits of a crop, resized to their place in the frame.

    Args:
        logits: (H, W) of the crop.
        sample_pos: centre of the crop in the frame.
        sample_scale: pixels of the frame per pixel of the crop.
        image_size: (height, width) of the frame.
        resize: which scale maps target to source pixels: `given` takes `sample_scale` itself (torch >= 1.6), `ratio`
            the ratio of the two sizes in whole pixels (torch <= 1.5).

    Returns:
        The scores that fall into the frame, and where they belong; elsewhere the score is `OUTSIDE`.
    """
    scale = float(sample_scale)
    height, width = (int(np.floor(np.float64(n) * scale)) for n in logits.shape)
    if min(height, width) < 1:
        return np.zeros((0, 0), np.float32), (slice(0, 0), slice(0, 0))
    scores: Any
    if resize == "given":
        # torch copies an axis whose length stays the same, whatever scale was given.
        fy, fx = (1.0 if out == n else scale for out, n in zip((height, width), logits.shape, strict=True))
        scores = cv2.resize(logits, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)[:height, :width]
    else:
        scores = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
    top = int(np.float32(sample_pos[0]) - np.float32(0.5 * height))
    left = int(np.float32(sample_pos[1]) - np.float32(0.5 * width))
    rows = slice(min(max(top, 0), image_size[0]), max(min(top + height, image_size[0]), 0))
    columns = slice(min(max(left, 0), image_size[1]), max(min(left + width, image_size[1]), 0))
    inside: NDArray[np.float32] = scores[
        rows.start - top : max(rows.stop - top, 0), columns.start - left : max(columns.stop - left, 0)
    ]
    return inside, (rows, columns)
