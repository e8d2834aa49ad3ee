"""Whole clips through one process, decoding and writing beside the inference, and which of the three holds it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime.job.pipeline import overlapped
from ...runtime.segmenter import Segmenter
from ...runtime.video.masks import write_label_map
from ...runtime.video.sources import Frame, Source
from .measure import Setup

Labelled = tuple[str, NDArray[np.uint8]]


@dataclass(slots=True)
class Occupation:
    """How a thread spent its time.

    Attributes:
        busy: seconds at its own work.
        waiting: seconds for the other threads' queues.
    """

    busy: float = 0.0
    waiting: float = 0.0
    _since: float = field(default_factory=time.perf_counter, repr=False)

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count the block as work, what passed since the last one as waiting."""
        start = time.perf_counter()
        self.waiting += start - self._since
        try:
            yield
        finally:
            self._since = time.perf_counter()
            self.busy += self._since - start


@dataclass(frozen=True, slots=True)
class Throughput:
    """What N clips took.

    Attributes:
        clips: N.
        frames: of all clips.
        seconds: from the first frame's decoding to the last mask's writing.
        threads: decode, segment and write.
    """

    setup: Setup
    clips: int
    frames: int
    seconds: float
    threads: dict[str, Occupation]

    @property
    def frames_per_second(self) -> float:
        """Frames of all clips over the whole time, first frames included."""
        return self.frames / self.seconds

    @property
    def bottleneck(self) -> str:
        """The thread that was busy longest."""
        return max(self.threads, key=lambda name: self.threads[name].busy)


def run_clips(
    segmenter: Segmenter,
    setup: Setup,
    source: Source,
    labels: NDArray[np.uint8],
    clips: int,
    folder: Path,
    advance: Callable[[], None] = lambda: None,
) -> Throughput:
    """Segment a clip N times from its first frame on, as `jointrt run --no-overlay` does.

    Args:
        segmenter: is reset at the beginning of each.
        labels: the first frame's mask.
        clips: N.
        folder: takes the masks.
        advance: called after each frame.
    """
    began = time.perf_counter()
    threads = {name: Occupation() for name in ("decode", "segment", "write")}
    sink = _MaskWriter(folder, threads["write"])

    def segment(item: tuple[int, Frame]) -> Labelled:
        clip, frame = item
        with threads["segment"].work():
            if frame.index == 0:
                segmenter.reset()
            found = segmenter.step(frame.image, labels if frame.index == 0 else None)
        advance()
        return f"{clip}-{frame.name}", found

    overlapped(_decoded(source, clips, threads["decode"]), segment, sink, threading.Event())
    return Throughput(setup, clips, sink.written, time.perf_counter() - began, threads)


def _decoded(source: Source, clips: int, occupation: Occupation) -> Iterator[tuple[int, Frame]]:
    for clip in range(clips):
        frames = source.frames()
        while True:
            with occupation.work():
                frame = next(frames, None)
            if frame is None:
                break
            yield clip, frame


class _MaskWriter:
    """The end of the pipeline."""

    def __init__(self, folder: Path, occupation: Occupation) -> None:
        self.folder = folder
        self.occupation = occupation
        self.written = 0

    def write(self, result: Labelled, /) -> None:
        name, labels = result
        with self.occupation.work():
            write_label_map(self.folder / f"{name}.png", labels)
        self.written += 1

    def close(self) -> None:
        """Every file is complete."""
