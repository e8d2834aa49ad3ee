"""Where an interrupted run takes up again."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..tracking.protocol import Pending
from ..video.masks import GivenMasks
from ..video.sources import Source
from .output import OutputFolder


class FrameSegmenter(Protocol):
    """What a run asks of `Segmenter`."""

    runs_on: str

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, *, correct: bool = False) -> Pending:
        """Begin with the next frame."""

    def reset(self) -> None:
        """Forget all objects."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on."""

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Where a run takes up; the masks will be those of an uninterrupted run.

    Attributes:
        first: number of the first frame to segment forwards; the masks from the first given one to it are stored.
        done: number of stored masks that are kept.
        back: number of the next frame to segment backwards; those between it and the first given mask are stored.
    """

    first: int
    done: int
    back: int

    @classmethod
    def fresh(cls, begin: int, every: int) -> Self:
        """At the first given mask."""
        return cls(begin, 0, begin - every)


def take_up(
    output: OutputFolder,
    source: Source,
    masks: GivenMasks,
    segmenter: FrameSegmenter,
    *,
    earliest: int,
    stop: int | None = None,
    every: int = 1,
) -> Restart:
    """Bring the segmenter to where its state was stored last; to the beginning where it was not yet.

    A state before the first given mask is one of the way backwards, which comes first.

    Args:
        output: the unfinished run.
        source: its frames.
        masks: its given masks.
        segmenter: a fresh one.
        earliest: number of the earliest frame to segment; that of the first given mask where nothing goes backwards.
        stop: number of the first frame not to segment.
        every: step between frames.
    """
    begin = masks.begin
    last = source.count if stop is None else stop
    numbers = itertools.count(begin, every) if last is None else range(begin, last, every)
    before = range(begin - every, earliest - 1, -every)
    done, back = (
        list(itertools.takewhile(lambda i: output.mask(source.name(i)).exists(), way)) for way in (numbers, before)
    )
    kept = output.load_state()
    if kept is None:
        return Restart.fresh(begin, every)
    frame, state = kept
    if frame in back:
        segmenter.load_state_dict(state)
        return Restart(begin, back.index(frame) + 1, frame - every)
    if frame in done and len(back) == len(before):
        segmenter.load_state_dict(state)
        return Restart(frame + every, len(back) + done.index(frame) + 1, earliest - every)
    return Restart.fresh(begin, every)
