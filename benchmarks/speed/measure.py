"""Timing whole update periods of one or several cases in turn, in one process.

Nothing here knows how a segmenter was made or where it runs: it is stepped, and its clock tells the stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends import Choice, Orchestrator
from ...runtime.clock import StageClock
from ...runtime.settings import Settings
from ...runtime.video.masks import write_label_map
from .durations import Ratio, is_steady, ratio_interval

TRUNK_RUNS = 3
"""Runs of the trunk after each period: both see the same state of a noisy machine."""
WHOLE = "frame"
"""The only stage of what runs on a device: the host sees whole frames."""


class Stepper(Protocol):
    """What is timed."""

    @property
    def clock(self) -> StageClock:
        """Where its stages are timed."""

    def step(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> NDArray[np.uint8]:
        """Label map (H, W) of the next frame (H, W, 3); returns when it is complete."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What is timed, and how it is used.

    Attributes:
        kind: a bundle, or its PyTorch network with the released algorithm.
        bundle: name of its folder.
        fingerprint: of the bundle.
        precision: of its graphs.
        crop: (height, width).
        choice: what runs the graphs, and where.
        settings: memory, interval, branches, threads, score_resize, windows, share.
        objects: that are followed.
    """

    kind: Literal["bundle", "reference"]
    bundle: str
    fingerprint: str
    precision: str
    crop: tuple[int, int]
    choice: Choice
    settings: Settings
    objects: int

    @property
    def device(self) -> str:
        """That it runs on."""
        return self.choice.device

    @property
    def backend(self) -> str:
        """What runs the graphs there, with the precision of what is fp32 in them where it is another."""
        return str(self.choice)

    @property
    def on_device(self) -> bool:
        """Whether the device follows the objects, and the host only waits for it."""
        return self.choice.orchestrator is Orchestrator.DEVICE


@dataclass(slots=True)
class Measurement:
    """What was measured of one case; durations in milliseconds.

    Attributes:
        against: number of the case that it is compared with; its own for the first.
        fill_seconds: that loading and filling the memory took.
        resident_mb: by which the process grew meanwhile; None where the system does not say.
        warm_up: frames before the first period, kept out of everything else.
        frames: every frame.
        stages: every call of every stage, inside the frames.
        write: every label map as PNG, outside of the frames.
        trunk: every run of the trunk alone, between the periods.
        gflop: of each stage per frame, mean over an update period; empty where not counted.
        queued: frames per second where the host works ahead of a device; None where it does not.
    """

    setup: Setup
    against: int = 0
    fill_seconds: float = 0.0
    resident_mb: float | None = None
    warm_up: list[float] = field(default_factory=list)
    frames: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    write: list[float] = field(default_factory=list)
    trunk: list[float] = field(default_factory=list)
    gflop: dict[str, float] = field(default_factory=dict)
    queued: float | None = None

    @property
    def rounds(self) -> NDArray[np.float64]:
        """Frames by update period, (periods, T)."""
        return np.array(self.frames).reshape(-1, self.setup.settings.interval)

    @property
    def amortised_frame_ms(self) -> float:
        """Mean over whole update periods: crop, engines, paste, aggregation and memory update."""
        return float(np.mean(self.frames))

    @property
    def trunk_ms(self) -> float | None:
        """Median of the trunk alone."""
        return float(np.median(self.trunk)) if self.trunk else None

    def steady(self) -> bool:
        """Whether the last periods are about as fast as the first."""
        return is_steady(self.rounds.mean(axis=1).tolist())

    def trunk_ratio(self) -> Ratio | None:
        """Frame over trunk."""
        if not self.trunk:
            return None
        return ratio_interval(self.rounds, np.array(self.trunk).reshape(-1, TRUNK_RUNS), np.median)

    def ratio_to(self, other: Measurement) -> Ratio:
        """Frame over the other's frame, in the rounds in which both took part."""
        common = min(len(self.rounds), len(other.rounds))
        return ratio_interval(self.rounds[:common], other.rounds[:common])


@dataclass(slots=True)
class Case:
    """One thing to time, its memory full, the next frame the first of an update period.

    Attributes:
        measurement: filled by the timing.
        frames: what it is shown next.
        shown: frames of the clip that it was shown before the first period.
        periods: how many of its periods are timed.
        trunk: runs the trunk alone; None where there is none to run.
        prepare: called before each of its periods.
    """

    measurement: Measurement
    stepper: Stepper
    frames: Iterator[NDArray[np.uint8]]
    shown: int
    periods: int
    trunk: Callable[[], object] | None = None
    prepare: Callable[[], None] = lambda: None

    def warm_up(self, frames: int) -> None:
        """Show frames ahead of the first period; their durations are kept apart."""
        self.prepare()
        for frame in islice(self.frames, frames):
            start = time.perf_counter()
            self.stepper.step(frame)
            self.measurement.warm_up.append(1e3 * (time.perf_counter() - start))
            self.shown += 1


def turns(periods: Sequence[int]) -> Iterator[list[int]]:
    """Which cases run in each round, in order: there and back, so that none always follows the same other.

    Args:
        periods: how many each case takes part in; the first ones.
    """
    for number in range(max(periods)):
        present = [case for case, count in enumerate(periods) if number < count]
        yield present[::-1] if number % 2 else present


def time_rounds(cases: Sequence[Case], scratch: Path, between: Callable[[], None], advance: Callable[[], None]) -> None:
    """One update period of each case in turn, again and again.

    Args:
        cases: their measurements are filled.
        scratch: an empty folder for label maps.
        between: called after each round.
        advance: called after each frame, outside of all durations.
    """
    for case in cases:
        case.stepper.clock.enabled = True
    for present in turns([case.periods for case in cases]):
        for number in present:
            _time_period(cases[number], scratch / f"{number}.png", advance)
        between()
    for case in cases:
        case.stepper.clock.enabled = False
        durations = case.stepper.clock.durations
        case.measurement.stages = {s: [1e3 * t for t in times] for s, times in durations.items() if s != WHOLE}


def _time_period(case: Case, file: Path, advance: Callable[[], None]) -> None:
    """The frames, then what belongs beside them."""
    measurement = case.measurement
    case.prepare()
    written = []
    for _ in range(measurement.setup.settings.interval):
        frame = next(case.frames)
        start = time.perf_counter()
        written.append(case.stepper.step(frame))
        measurement.frames.append(1e3 * (time.perf_counter() - start))
        advance()
    for labels in written:
        start = time.perf_counter()
        write_label_map(file, labels)
        measurement.write.append(1e3 * (time.perf_counter() - start))
    for _ in range(TRUNK_RUNS if case.trunk is not None else 0):
        assert case.trunk is not None
        start = time.perf_counter()
        case.trunk()
        measurement.trunk.append(1e3 * (time.perf_counter() - start))
