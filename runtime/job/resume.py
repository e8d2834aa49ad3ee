"""Where an interrupted run takes up again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..tracking.protocol import Pending
from ..video.masks import GivenMasks, read_label_map
from ..video.sources import Source
from .output import OutputFolder

SOUND_PIXELS = 100
"""Pixels that an object's mask must have for the object to be taken up from it again."""


class FrameSegmenter(Protocol):
    """What a run asks of `Segmenter`."""

    runs_on: str

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> Pending:
        """Begin with the next frame."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on."""

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Where a run takes up.

    Attributes:
        first: number of the first frame to segment; the masks of those before are stored.
        retaken: number of the frame whose stored mask starts the objects anew; None if none has to.
        done: number of stored masks that are kept.
        exact: whether the masks will be those of an uninterrupted run.
    """

    first: int
    retaken: int | None
    done: int
    exact: bool

    @classmethod
    def fresh(cls, begin: int) -> Self:
        """At the beginning."""
        return cls(begin, None, 0, exact=True)

    @property
    def first_read(self) -> int:
        """Number of the first frame that the segmenter needs."""
        return self.first if self.retaken is None else self.retaken


def take_up(
    output: OutputFolder,
    source: Source,
    masks: GivenMasks,
    segmenter: FrameSegmenter,
    *,
    stop: int | None = None,
    every: int = 1,
) -> Restart:
    """Bring the segmenter to where the unfinished run was.

    After an interruption in order its state is loaded, and the masks will be exactly those of an uninterrupted run.
    Otherwise the objects start anew from the last stored mask in which all that were given by then can be seen; where
    there is none, from the beginning.

    Args:
        output: the unfinished run.
        source: its frames.
        masks: its given masks.
        segmenter: a fresh one.
        stop: number of the first frame not to segment.
        every: step between frames.
    """
    begin = masks.begin
    last = source.count if stop is None else stop
    numbers = itertools.count(begin, every) if last is None else range(begin, last, every)
    done = list(itertools.takewhile(lambda i: output.mask(source.name(i)).exists(), numbers))
    kept = output.load_state()
    if kept is not None and kept[0] in done:
        segmenter.load_state_dict(kept[1])
        return Restart(kept[0] + every, None, done.index(kept[0]) + 1, exact=True)
    for position, index in reversed(list(enumerate(done))):
        pixels = np.bincount(read_label_map(output.mask(source.name(index))).ravel(), minlength=256)
        if all(pixels[i] >= SOUND_PIXELS for i in masks.ids_until(index)):
            return Restart(index + every, index, position + 1, exact=False)
    return Restart.fresh(begin)
