"""Several clips of one frame size in one batch of a worker's engines: each has a seat, and none knows of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import SettingsError
from ..runtime.backends import choose
from ..runtime.bundle import Bundle
from ..runtime.device.readiness import device_name
from ..runtime.job.resume import FrameSegmenter
from ..runtime.job.run import identity, load_segmenter
from ..runtime.settings import Options

if TYPE_CHECKING:
    from ..runtime.device.follower import BatchSegmenter

Size = tuple[int, int]


class Seats(Protocol):
    """Segmenters that a worker lends to clips."""

    def seat(self, size: Size) -> Any:
        """A context manager that gives a `FrameSegmenter` which follows nothing, for frames of (H, W)."""


class OneSeat:
    """One segmenter, for one clip at a time."""

    def __init__(self, segmenter: Any) -> None:
        self.segmenter = segmenter

    @contextmanager
    def seat(self, size: Size) -> Iterator[FrameSegmenter]:
        """See `Seats.seat`."""
        self.segmenter.reset()
        yield self.segmenter


class Place:
    """A frame's label map, once the batch that it is in was segmented."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self._labels: NDArray[np.uint8] | None = None
        self._failure: BaseException | None = None

    def fill(self, labels: NDArray[np.uint8] | None, failure: BaseException | None = None) -> None:
        """It is there, or will never be."""
        self._labels, self._failure = labels, failure
        self._there.set()

    def result(self) -> NDArray[np.uint8]:
        """See `tracking.protocol.Pending`."""
        self._there.wait()
        if self._failure is not None:
            raise self._failure
        assert self._labels is not None
        return self._labels


class BatchSeats:
    """V seats at one `BatchSegmenter`; clips of other frame sizes wait until all who sit have gone.

    A batch goes off when every clip that has a seat has given its next frame: the slowest sets the pace.

    Attributes:
        batches: that went off.
    """

    def __init__(self, segmenter: BatchSegmenter, videos: int, runs_on: str) -> None:
        self.batches = 0
        self._segmenter = segmenter
        self._runs_on = runs_on
        self._changed = threading.Condition()
        self._free = list(range(videos))
        self._seated: set[int] = set()
        self._given: dict[int, tuple[NDArray[np.uint8], NDArray[Any] | None, Place]] = {}
        self._size: Size | None = None
        self._others = 0
        self._videos = videos

    @contextmanager
    def seat(self, size: Size) -> Iterator[FrameSegmenter]:
        """See `Seats.seat`; waits for one."""
        with self._changed:
            number = self._sit(size)
        try:
            yield _Seat(self, number, self._runs_on)
        finally:
            with self._changed:
                self._seated.discard(number)
                self._segmenter.reset(number)
                if given := self._given.pop(number, None):
                    given[2].fill(None, SettingsError("the clip left its seat"))
                self._free.append(number)
                self._go_if_all_gave()
                self._changed.notify_all()

    def _sit(self, size: Size) -> int:
        if size != self._size and self._seated:
            # Whoever waits for another size is not overtaken for ever: nobody sits down before.
            self._others += 1
            self._changed.wait_for(lambda: not self._seated)
            self._others -= 1
        self._changed.wait_for(lambda: self._free and (not self._seated or (size == self._size and not self._others)))
        if size != self._size:
            self._segmenter.batch.clear()
            self._size = size
        number = self._free.pop()
        self._seated.add(number)
        return number

    def submit(self, number: int, frame: NDArray[np.uint8], mask: NDArray[Any] | None) -> Place:
        """The next frame of the clip on a seat; waits while the one before is in no batch."""
        with self._changed:
            self._changed.wait_for(lambda: number not in self._given)
            place = Place()
            self._given[number] = (frame, mask, place)
            self._go_if_all_gave()
            return place

    def forget(self, number: int) -> None:
        """The clip on a seat begins anew."""
        with self._changed:
            self._changed.wait_for(lambda: number not in self._given)
            self._segmenter.reset(number)

    def _go_if_all_gave(self) -> None:
        if not self._seated or self._given.keys() < self._seated:
            return
        frames: list[NDArray[np.uint8] | None] = [None] * self._videos
        masks: list[NDArray[Any] | None] = [None] * self._videos
        for number, (frame, mask, _) in self._given.items():
            frames[number], masks[number] = frame, mask
        given, self._given = self._given, {}
        try:
            labels = self._segmenter.step(frames, masks)
            self.batches += 1
            for number, (_, _, place) in given.items():
                place.fill(labels[number])
        except BaseException as failure:
            for _, _, place in given.values():
                place.fill(None, failure)
        self._changed.notify_all()


class _Seat:
    """What a clip on a seat has for a segmenter."""

    def __init__(self, seats: BatchSeats, number: int, runs_on: str) -> None:
        self.runs_on = runs_on
        self._seats = seats
        self._number = number

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, *, correct: bool = False) -> Place:
        """See `FrameSegmenter.submit`."""
        assert not correct
        return self._seats.submit(self._number, frame, mask)

    def reset(self) -> None:
        """See `FrameSegmenter.reset`."""
        self._seats.forget(self._number)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """A seat's state is not kept: a clip is done whole."""
        return {}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Nothing was kept."""


def load_seats(bundle: str, options: Options, videos: int) -> tuple[Seats, dict[str, Any]]:
    """Seats for so many clips at a time, and what determines their masks.

    Raises:
        JointError: the bundle or a setting cannot be used; several videos are not for a CPU's own backends.
    """
    if videos == 1:
        segmenter, used = load_segmenter(bundle, options)
        return OneSeat(segmenter), used
    # It needs torch, which a CPU's own backends do not.
    from ..runtime.device.follower import BatchSegmenter

    opened = Bundle.open(bundle)
    choice = choose(opened, options.backend, None, options.device)
    batch = BatchSegmenter.load(opened, videos=videos, **options.options())
    used = {**identity(opened, choice, options.settings(opened.manifest.defaults)), "videos": videos}
    return BatchSeats(batch, videos, choice.runs_on(device_name(choice.device))), used
