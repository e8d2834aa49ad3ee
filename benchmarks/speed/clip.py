"""The clip that is timed: decoded beforehand, with a mask of as many objects as asked for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...errors import MaskError, SettingsError
from ...runtime.video.masks import read_label_map
from ...runtime.video.sources import open_source

CLIP = Path(__file__).resolve().parents[2] / "examples" / "dog.mp4"
"""The clip that ships with the package; its mask lies beside it."""
FRAMES = 48
"""Frames that are kept in memory; longer measurements go back and forth over them."""
PART_PIXELS = 100
"""Fewer pixels do not move a target (see `target_state`): parts of a mask have more."""


@dataclass(frozen=True, slots=True)
class BenchClip:
    """Frames and the first mask.

    Attributes:
        path: the video file or folder of images.
        fingerprint: hex digest that changes with the clip or its mask.
        images: (H, W, 3) uint8, RGB.
        decode: milliseconds that each took to decode.
        labels: (H, W) uint8, the mask as given.
    """

    path: Path
    fingerprint: str
    images: list[NDArray[np.uint8]]
    decode: list[float]
    labels: NDArray[np.uint8]

    @classmethod
    def read(cls, path: Path, mask: Path | None = None, frames: int = FRAMES) -> Self:
        """The first frames of a clip, and its mask: the PNG named like the clip if None.

        Raises:
            VideoError: the clip cannot be read.
            MaskError: the mask cannot be read, is empty, or has another size.
        """
        mask = path.with_suffix(".png") if mask is None else mask
        source, labels = open_source(path), read_label_map(mask)
        if labels.shape != source.size or not labels.any():
            found = "no object" if not labels.any() else f"{labels.shape[1]}x{labels.shape[0]} pixels"
            raise MaskError(f"{mask} holds {found}: expected a mask of {path}, {source.size[1]}x{source.size[0]}")
        digest = hashlib.sha256(source.fingerprint().encode() + labels.tobytes()).hexdigest()
        images: list[NDArray[np.uint8]] = []
        decode: list[float] = []
        start = time.perf_counter()
        for frame in source.frames(0, frames):
            decode.append(1e3 * (time.perf_counter() - start))
            images.append(frame.image)
            start = time.perf_counter()
        return cls(path, digest, images, decode, labels)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.labels.shape[0], self.labels.shape[1]

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Endlessly back and forth, so that an object never jumps; from number `start` on."""
        return islice(cycle([*self.images, *self.images[-2:0:-1]]), start, None)

    def mask(self, objects: int) -> NDArray[np.uint8]:
        """A label map (H, W) of so many objects.

        The objects of the highest ids come first. Where the mask holds too few, the largest is cut in two halves of
        equal size across its longer side, again and again.

        Raises:
            SettingsError: the mask has no room for so many.
        """
        if objects < 1:
            raise SettingsError(f"objects is {objects}: expected 1 or more")
        ids = [int(i) for i in np.unique(self.labels) if i][::-1]
        labels = np.where(np.isin(self.labels, ids[:objects]), self.labels, 0).astype(np.uint8)
        for _ in range(objects - len(ids)):
            _halve_largest(labels)
        return labels


def _halve_largest(labels: NDArray[np.uint8]) -> None:
    """Give one half of the largest object a new id."""
    pixels = np.bincount(labels.ravel(), minlength=256)
    pixels[0] = 0
    free = np.flatnonzero(pixels[1:] == 0) + 1
    if not len(free) or pixels.max() < 2 * PART_PIXELS:
        raise SettingsError(f"the mask has no room for more objects: expected {PART_PIXELS} pixels for each")
    places = np.nonzero(labels == pixels.argmax())
    longer = max(places, key=np.ptp)
    order = np.argsort(longer, kind="stable")
    second = order[len(order) // 2 :]
    labels[places[0][second], places[1][second]] = free[0]
