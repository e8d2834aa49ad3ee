"""Many clips through several processes: which number of processes and threads keeps a machine busy.

Each process does with a clip what `jointrt run --no-overlay` does: decoding and writing are in the figures, and so are
each clip's first frame and its many steps. Loading the bundle is not: it is paid once for any number of clips.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Self, TypeVar

from ...errors import DeviceError, SettingsError
from ...runtime.backends import Choice, choose, default_bundle
from ...runtime.bundle import Bundle
from ...runtime.job.quiet import Quiet
from ...runtime.job.run import Job, Loaded, Request, load_segmenter
from ...runtime.settings import Options
from ...runtime.video.masks import write_label_map
from ...runtime.worker_shape import WorkerShape, usual_shapes
from .clip import CLIP, BenchClip
from .environment import Environment, private_and_shared_mb

ROUNDS = 3
"""Times that every shape does all clips; they take turns, so that their ratios hold whatever else the machine does."""
LONG_FRAMES, SHORT_FRAMES = 60, 10
SHORT_CLIPS = 4
"""Short clips for each long one."""

Progress = Callable[[str, int, int], None]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputRequest(Options):
    """What to measure, `Options` included; their threads are not read.

    Attributes:
        bundle: name or folder; what `jointrt run` takes if None.
        shapes: processes and threads; `usual_shapes` if empty.
        objects: in every clip.
        source: its first frames are the clips, `LONG_FRAMES` of a long one, `SHORT_FRAMES` of a short one.
        mask: its first mask; the PNG named like it if None.
        long_clips: of one round; as many as the most processes if None.
        rounds: see `ROUNDS`.
    """

    bundle: str | None = None
    shapes: tuple[WorkerShape, ...] = ()
    objects: int = 1
    source: Path = CLIP
    mask: Path | None = None
    long_clips: int | None = None
    rounds: int = ROUNDS


@dataclass(frozen=True, slots=True)
class ShapeFigures:
    """What one shape took.

    Attributes:
        load_seconds: until all its processes had loaded the bundle.
        seconds: of each round.
        private_mb, shared_mb: resident memory of a process: what it has for itself, and what it shares with others,
            libraries' code included; None where the system does not say.
    """

    shape: WorkerShape
    load_seconds: float
    seconds: list[float]
    private_mb: float | None
    shared_mb: float | None


@dataclass(frozen=True, slots=True)
class ThroughputReport:
    """What was measured.

    Attributes:
        short, long: clips of one round; `frames` are of all of them.
        shapes: the first is what the others are compared with.
    """

    environment: Environment
    bundle: Bundle
    choice: Choice
    clip: BenchClip
    objects: int
    short: int
    long: int
    frames: int
    shapes: list[ShapeFigures]

    def rate(self, figures: ShapeFigures) -> float:
        """Frames per second over all rounds."""
        return self.frames * len(figures.seconds) / sum(figures.seconds)

    def ratios(self, figures: ShapeFigures) -> list[float]:
        """How many times as fast as the first shape, round by round."""
        return [first / own for first, own in zip(self.shapes[0].seconds, figures.seconds, strict=True)]

    @property
    def best(self) -> ShapeFigures:
        """The fastest over all rounds."""
        return max(self.shapes, key=self.rate)


def measure_throughput(request: ThroughputRequest, progress: Progress) -> ThroughputReport:
    """Run all clips with every shape in turn.

    Raises:
        DeviceError: a process died; of want of memory, perhaps.
        JointError: a bundle, a clip or a setting cannot be used.
    """
    if request.rounds < 1:
        raise SettingsError(f"rounds is {request.rounds}: expected 1 or more")
    name = request.bundle or default_bundle(request.backend, request.device)
    bundle = Bundle.open(name)
    choice = choose(bundle, request.backend, None, request.device)
    clip = BenchClip.read(request.source, request.mask)
    shapes = request.shapes or usual_shapes()
    for shape in shapes:
        replace(request, threads=shape.threads).settings(bundle.manifest.defaults)
    long = request.long_clips or max(shape.processes for shape in shapes)
    with tempfile.TemporaryDirectory(prefix="jointrt-") as scratch, ExitStack() as stack:
        mask = Path(scratch) / "first.png"
        write_label_map(mask, clip.mask(request.objects))
        whole = Request(
            source=request.source.absolute(),
            mask=mask,
            out=Path(scratch),
            overlay=False,
            end=LONG_FRAMES,
            **{**request.options(), "bundle": name},
        )
        clips = [whole] * long + [replace(whole, end=SHORT_FRAMES)] * (SHORT_CLIPS * long)
        processes: list[_Processes] = []
        for number, shape in enumerate(shapes):
            progress("loading", number, len(shapes))
            processes.append(stack.enter_context(_Processes(whole, shape)))
        frames = 0
        for turn in range(request.rounds):
            for number, each in enumerate(processes):
                progress("running clips", turn * len(shapes) + number, request.rounds * len(shapes))
                frames = each.run(clips)
        return ThroughputReport(
            Environment.current(request.device, with_torch=False),
            bundle,
            choice,
            clip,
            request.objects,
            SHORT_CLIPS * long,
            long,
            frames,
            [each.figures() for each in processes],
        )


class _Processes:
    """Processes of one shape, each with the bundle loaded."""

    def __init__(self, request: Request, shape: WorkerShape) -> None:
        self.shape = shape
        self.seconds: list[float] = []
        self._memory: dict[int, tuple[float, float] | None] = {}
        began = time.perf_counter()
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            shape.processes,
            spawn,
            initializer=_load,
            initargs=(replace(request, threads=shape.threads), spawn.Barrier(shape.processes)),
        )
        self._results(self._pool.submit(_wait_for_all) for _ in range(shape.processes))
        self.load_seconds = time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def run(self, clips: Sequence[Request]) -> int:
        """Do all clips, the first ones first; gives the number of their frames."""
        began = time.perf_counter()
        done = self._results(self._pool.submit(_segment, clip) for clip in clips)
        self.seconds.append(time.perf_counter() - began)
        self._memory.update({process: memory for _, process, memory in done})
        return sum(frames for frames, _, _ in done)

    def figures(self) -> ShapeFigures:
        known = [memory for memory in self._memory.values() if memory is not None]
        private, shared = (sum(m[n] for m in known) / len(known) if known else None for n in (0, 1))
        return ShapeFigures(self.shape, self.load_seconds, self.seconds, private, shared)

    def _results(self, futures: Iterable[Future[Result]]) -> list[Result]:
        try:
            return [future.result() for future in list(futures)]
        except BrokenProcessPool:
            raise DeviceError(f"one of {self.shape} died: out of memory, perhaps; try fewer") from None


_loaded: Loaded
_others: Barrier


def _load(request: Request, others: Barrier) -> None:
    global _loaded, _others
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_it() -> None:
        parent.join()
        os._exit(1)

    # A parent that is killed would leave this one at work.
    threading.Thread(target=end_with_it, daemon=True).start()
    _loaded, _others = load_segmenter(request.bundle, request), others


def _wait_for_all() -> None:
    _others.wait()


def _segment(clip: Request) -> tuple[int, int, tuple[float, float] | None]:
    """A clip's frames, this process, and its memory."""
    segmenter, used = _loaded
    segmenter.reset()
    out = Path(tempfile.mkdtemp(dir=clip.out))
    frames = Job.prepare(replace(clip, out=out)).run(segmenter, used, Quiet()).frames
    shutil.rmtree(out)
    return frames, os.getpid(), private_and_shared_mb()
