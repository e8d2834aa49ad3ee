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

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on."""

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Where a run takes up; the masks will be those of an uninterrupted run.

    Attributes:
        first: number of the first frame to segment; the masks of those before are stored.
        done: number of stored masks that are kept.
    """

    first: int
    done: int

    @classmethod
    def fresh(cls, begin: int) -> Self:
        """At the beginning."""
        return cls(begin, 0)


def take_up(
    output: OutputFolder,
    source: Source,
    masks: GivenMasks,
    segmenter: FrameSegmenter,
    *,
    stop: int | None = None,
    every: int = 1,
) -> Restart:
    """Bring the segmenter to where its state was stored last; to the beginning where it was not yet.

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
    if kept is None or kept[0] not in done:
        return Restart.fresh(begin)
    segmenter.load_state_dict(kept[1])
    return Restart(kept[0] + every, done.index(kept[0]) + 1)
