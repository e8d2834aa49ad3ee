"""From a video and its first masks to a mask for every frame; what `jointrt run` does.

Nothing is written before everything is checked and the first label map is there.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import JointError, SettingsError, VideoError
from ..backends import Choice, Orchestrator
from ..bundle import Bundle
from ..segmenter import Segmenter
from ..settings import MIN_AREA, Options, Settings
from ..tracking.protocol import Computed, Pending
from ..video.live import LiveSource
from ..video.masks import GivenMasks, MaskReading, read_label_map
from ..video.overlay import OverlayVideo, draw_overlay
from ..video.sources import Frame, Source, open_source
from ..video.window import OverlayWindow
from .output import OutputFolder
from .pipeline import DEPTH, overlapped
from .resume import FrameSegmenter, Restart, take_up
from .tally import Tally

STATE_EVERY = 100
"""Frames after which the segmenter's state is stored: what a killed run loses at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Options):
    """What the user asks for, `Options` included.

    Attributes:
        source: a video file or a folder of images; or a live source, which is read once and ends when it is told to.
        mask: a PNG, or a folder of PNGs named like frames.
        out: the folder for the results.
        bundle: see `Segmenter.load`.
        hard_mask, keep_255: how given masks are read; see `masks.MaskReading`.
        correct: whether later masks of known objects correct them.
        backward: whether the frames before the first mask are segmented too, backwards from it.
        start_mask: number of the frame that a single mask belongs to, from which it goes backwards and forwards; that
            of the first frame if None.
        every: segment every so many-th frame.
        start: number of the first frame.
        end: number of the first frame not to segment; None for all.
        overwrite: replace earlier results.
        resume: go on with an interrupted run.
        overlay: write the overlay video too.
        show: show the overlay in a window.
        resumable: store the segmenter's state on the way, so that a killed run can be gone on with.
    """

    source: Path | LiveSource
    mask: Path
    out: Path
    bundle: str = "lite"
    hard_mask: bool = False
    keep_255: bool = False
    correct: bool = False
    backward: bool = False
    start_mask: int | None = None
    every: int = 1
    start: int = 0
    end: int | None = None
    overwrite: bool = False
    resume: bool = False
    overlay: bool = True
    show: bool = False
    resumable: bool = True

    @property
    def live(self) -> bool:
        """Whether frames come once."""
        return isinstance(self.source, LiveSource)

    @property
    def both_ways(self) -> bool:
        """Whether frames before the first mask are segmented."""
        return self.backward or self.start_mask is not None

    @property
    def mask_frame(self) -> int:
        """Number of the frame that a single mask belongs to."""
        return self.start if self.start_mask is None else self.start_mask


class Display(Protocol):
    """Who is told of the progress of a run, an evaluation or a comparison."""

    def begin(self, total: int | None, done: int) -> None:
        """It starts with `done` of `total` frames complete; None if the source does not say how many it has."""

    def advance(self) -> None:
        """One more frame is complete."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        frames: complete masks, those of the resumed run included.
        segmented: frames segmented by this run.
        objects: number of objects given.
        seconds: that this run took, from its first frame on.
        interrupted: whether it was stopped before the end.
        damage: what was wrong with the source; None if nothing.
        unused: given masks whose frames were not there.
        runs_on: what ran the engines.
        lost: objects that are not in the last frame, and the frame from which on they are gone.
        found: objects that are, but were gone before: last from which frame on, and where they were found again.
        dropped: frames of a live source that could not be kept up with.
    """

    frames: int
    segmented: int
    objects: int
    seconds: float
    interrupted: bool
    damage: str | None
    unused: tuple[str, ...]
    runs_on: str
    lost: dict[int, str]
    found: dict[int, tuple[str, str]]
    dropped: int = 0


Loaded = tuple[Segmenter, dict[str, Any]]
"""A segmenter, and what determines its masks."""


def segment_video(request: Request, display: Display, loaded: Loaded | None = None) -> Outcome:
    """Check everything, load the bundle, run.

    Args:
        loaded: what `load_segmenter` gave for the same options; where a source is live, it is loaded before the source
            is opened.

    Raises:
        JointError: anything wrong with what the user gave; nothing was written then.
    """
    job = Job.prepare(request)
    segmenter, used = loaded or load_segmenter(request.bundle, request)
    assert segmenter.choice is not None
    if segmenter.choice.orchestrator is Orchestrator.DEVICE:
        display.note(f"runs with {segmenter.runs_on}")
    return job.run(segmenter, used, display)


def load_segmenter(name: str, options: Options) -> Loaded:
    """The segmenter of a bundle, and what determines its masks (see `identity`).

    Raises:
        JointError: the bundle or a setting cannot be used.
    """
    bundle = Bundle.open(name)
    segmenter = Segmenter.load(bundle, **options.options())
    assert segmenter.choice is not None
    return segmenter, identity(bundle, segmenter.choice, segmenter.settings)


def identity(bundle: Bundle, choice: Choice, settings: Settings) -> dict[str, Any]:
    """What determines the masks besides source, given masks and range, as JSON can hold it."""
    used = asdict(settings)
    del used["threads"]
    return {"bundle": bundle.fingerprint, **choice.identity, **used}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A frame and its label map.

    Attributes:
        pending: gives the label map, perhaps only after a wait.
        stored: whether the mask already lies in the output folder, or will be written on the way forwards.
        state: of the segmenter after the frame, where it is to be kept.
        backwards: whether this is on the way backwards; frames are counted and shown on the way forwards.
    """

    frame: Frame
    pending: Pending
    stored: bool
    state: dict[str, NDArray[Any]] | None
    backwards: bool = False


class Job:
    """A checked request.

    Attributes:
        earliest: number of the earliest frame to segment: that of the first mask, unless the run goes backwards too.
    """

    def __init__(self, request: Request, source: Source, masks: GivenMasks, output: OutputFolder) -> None:
        self.request = request
        self.source = source
        self.masks = masks
        self.output = output
        before = (masks.begin - request.start) // request.every if request.both_ways else 0
        self.earliest = masks.begin - before * request.every

    @classmethod
    def prepare(cls, request: Request) -> Self:
        """Check settings, source, masks and output folder; writes nothing.

        Raises:
            JointError: one of them cannot be used.
        """
        _check_range(request)
        try:
            return cls._prepare(request)
        except OSError as error:
            raise JointError(f"{error.filename} cannot be used: {error.strerror}") from None

    @classmethod
    def _prepare(cls, request: Request) -> Self:
        source: Source
        inputs: tuple[Path, ...]
        if isinstance(request.source, LiveSource):
            source, inputs = request.source, (request.mask,)
        else:
            source, inputs = open_source(request.source, exclude=request.mask), (request.source, request.mask)
        for name, value in (("start", request.start), ("start-mask", request.mask_frame)):
            if source.count is not None and value >= source.count:
                raise SettingsError(
                    f"{name} is {value}: expected less than {source.count}, the number of frames of {source.path}"
                )
        masks = GivenMasks.read(
            request.mask,
            source,
            start=request.mask_frame,
            stop=request.end,
            every=request.every,
            reading=MaskReading(
                request.hard_mask, request.keep_255, MIN_AREA if request.min_area is None else request.min_area
            ),
            correct=request.correct,
        )
        output = OutputFolder(request.out)
        output.check(inputs, overwrite=request.overwrite, resume=request.resume)
        if isinstance(source, LiveSource):
            source.need(masks.files)
        return cls(request, source, masks, output)

    @property
    def keeps_state(self) -> bool:
        """Whether a killed run may be gone on with."""
        return self.request.resumable and not self.request.live

    def run(self, segmenter: FrameSegmenter, identity: Mapping[str, Any], display: Display) -> Outcome:
        """Segment all frames.

        Args:
            segmenter: a fresh one.
            identity: what determines the masks besides source, given masks and range; compared on resuming.
            display: is told of the progress.

        Raises:
            JointError: what ended the run early; complete masks and their overlay are kept.
        """
        with OverlayWindow.opened(str(self.source.path)) if self.request.show else nullcontext() as window:
            return self._run(segmenter, identity, display, window)

    def _run(
        self,
        segmenter: FrameSegmenter,
        identity: Mapping[str, Any],
        display: Display,
        window: OverlayWindow | None,
    ) -> Outcome:
        self._tell(display)
        restart, record = self._restart(segmenter, identity, display)
        if not restart.done:
            for note in self._ways():
                display.note(note)
        work = _Inference(self, segmenter, restart, record, display)
        stop = threading.Event()
        sink = _ResultWriter(self, window, stop)
        display.begin(self._total(), restart.done)
        began = time.perf_counter()
        try:
            with _set_on_signal(stop):
                complete = self._backwards(restart, work, sink, stop) and self._forwards(restart, work, sink, stop)
            # A live source has no end but that.
            complete = complete or (self.request.live and work.begun)
            if complete and work.last < self.masks.begin:
                raise VideoError(
                    f"{self.source.path}: frame {self.masks.begin}, the first to segment, cannot be read: "
                    + (self.source.damage or "the source ends before it")
                )
        except JointError as error:
            self._keep(work)
            if count := restart.done + sink.written:
                complete_masks = "1 mask is" if count == 1 else f"{count} masks are"
                raise type(error)(f"{error}; {complete_masks} complete in {self.output.masks}") from None
            raise
        except BaseException:
            self.output.retract()
            raise
        seconds = time.perf_counter() - began
        dropped = self.source.dropped if isinstance(self.source, LiveSource) else 0
        if complete:
            told = sink.tally.report(self.request.bundle, segmenter.runs_on, seconds)
            self.output.report(told | ({"dropped": dropped} if self.request.live else {}))
            self.output.finish()
        else:
            self._keep(work)
        return Outcome(
            frames=restart.done + sink.written,
            segmented=sink.written,
            objects=len(self.masks.ids_until(work.last)),
            seconds=seconds,
            interrupted=not complete,
            damage=self.source.damage if complete else None,
            unused=tuple(str(f) for i, f in self.masks.files.items() if complete and i > work.last),
            runs_on=segmenter.runs_on,
            lost=sink.tally.lost(),
            found=sink.tally.found(),
            dropped=dropped,
        )

    def _tell(self, display: Display) -> None:
        """What the user should know of source, masks and output folder."""
        for note in (*self.source.notes, *self.masks.notes):
            display.note(f"note: {note}")
        if self.request.overwrite and (foreign := self.output.foreign()):
            display.note(
                f"note: {foreign} PNGs in {self.output.masks} that no run wrote stay, unless a mask is so called"
            )

    def _ways(self) -> Iterator[str]:
        """Where the run begins and which ways it goes, where that is not what was typed."""
        begin, start = self.masks.begin, self.request.start
        name = self.source.name(begin)
        if not self.request.both_ways:
            if begin > start:
                yield f"begins at frame {name}, the first that has a mask; --backward segments those before it too"
            return
        if self.earliest == begin:
            yield f"nothing goes backwards: no frame to segment lies before {name}, the first that has a mask"
        elif later := sorted(frozenset().union(*self.masks.new_ids.values()) - self.masks.new_ids[begin]):
            listed = ", ".join(map(str, later[:5])) + (f" and {len(later) - 5} more" if len(later) > 5 else "")
            yield f"backwards from frame {name} only its objects are followed, not those of later masks: {listed}"

    def _backwards(self, restart: Restart, work: _Inference, sink: _ResultWriter, stop: threading.Event) -> bool:
        """Masks of the frames before the first given one, the nearest first.

        Returns:
            Whether all are there.
        """
        if restart.back >= self.earliest:
            fresh = restart.back + self.request.every == self.masks.begin
            frames = self.source.backwards(
                self.masks.begin if fresh else restart.back, self.earliest, self.request.every
            )
            if not overlapped(frames, work.backwards, sink, stop):
                return False
            # A run that is resumed knows by it that this way is complete.
            if self.keeps_state:
                self.output.save_state(self.earliest, work.segmenter.state_dict())
        return True

    def _forwards(self, restart: Restart, work: _Inference, sink: _ResultWriter, stop: threading.Event) -> bool:
        """Masks from the first given one on; with an overlay, stored ones are met again.

        Returns:
            Whether all are there.
        """
        if restart.first == self.masks.begin and self.earliest < self.masks.begin:
            work.turn()
        if not self.request.overlay:
            self._count_stored(restart, sink.tally)
        first = self.earliest if self.request.overlay else restart.first
        frames = self.source.frames(first, self.request.end, self.request.every)
        return overlapped(frames, work, sink, stop, depth=1 if self.request.live else DEPTH)

    def _restart(
        self, segmenter: FrameSegmenter, identity: Mapping[str, Any], display: Display
    ) -> tuple[Restart, dict[str, Any]]:
        request = self.request
        record = {
            "source": self.source.fingerprint(),
            "mask": self.masks.fingerprint(),
            **identity,
            "start": request.start,
            "end": request.end,
            "every": request.every,
            "correct": request.correct,
            # Runs that an earlier version left unfinished have no such word.
            **({"backward": True} if request.both_ways else {}),
        }
        fresh = Restart.fresh(self.masks.begin, request.every)
        if not request.resume:
            return fresh, record
        if not self.output.refuse_other_run(record):
            display.note(f"{self.output.path} holds nothing yet: the run begins")
            return fresh, record
        restart = take_up(
            self.output,
            self.source,
            self.masks,
            segmenter,
            earliest=self.earliest,
            stop=request.end,
            every=request.every,
        )
        if restart.done:
            display.note(f"goes on after {restart.done} frames, with the memory they left")
        else:
            display.note(f"begins anew: the memory is stored every {STATE_EVERY} frames, and the run ended before that")
        return restart, record

    def _count_stored(self, restart: Restart, tally: Tally) -> None:
        """Count the stored masks before the first frame to segment forwards."""
        for index in range(self.earliest, restart.first, self.request.every):
            name = self.source.name(index)
            tally.add(name, read_label_map(self.output.mask(name)))

    def _keep(self, work: _Inference) -> None:
        """Keep what a later run needs to go on, or nothing where no mask is complete."""
        if work.begun and work.state_after is not None and self.keeps_state:
            self.output.save_state(work.state_after, work.segmenter.state_dict())
        if work.begun:
            self.output.retract()

    def _total(self) -> int | None:
        ends = [n for n in (self.source.count, self.request.end) if n is not None]
        return len(range(self.earliest, min(ends), self.request.every)) if ends else None


class _Inference:
    """The middle of the pipeline.

    Attributes:
        begun: whether the output folder was begun.
        last: number of the last frame from the first given mask on that has labels, also of those stored before.
        state_after: number of the frame behind which the segmenter stands; None if it stands nowhere.
    """

    def __init__(
        self, job: Job, segmenter: FrameSegmenter, restart: Restart, record: Mapping[str, Any], display: Display
    ) -> None:
        self.job = job
        self.segmenter = segmenter
        self.restart = restart
        self.record = record
        self.display = display
        self.begun = False
        self._since_state = 0
        self.last = restart.first - job.request.every
        self.state_after = None
        if restart.done:
            self.state_after = self.last if restart.first > job.masks.begin else restart.back + job.request.every

    def __call__(self, frame: Frame, /) -> Labelled:
        """A frame on the way forwards."""
        stored = frame.index < self.restart.first
        if stored:
            pending: Pending = Computed(read_label_map(self.job.output.mask(frame.name)))
        else:
            pending = self._submit(frame, self.job.masks.at(frame.index))
        self._begin(pending)
        if not stored:
            self.last = frame.index
            self.display.advance()
        return Labelled(frame, pending, stored, None if stored else self._due_state())

    def backwards(self, frame: Frame, /) -> Labelled:
        """A frame on the way backwards; that of the first given mask shows the objects only."""
        begin = self.job.masks.begin
        given = frame.index == begin
        pending = self._submit(frame, self.job.masks.at(begin) if given else None)
        self._begin(pending)
        self.last = begin
        if given:
            self.state_after = None
        else:
            self.display.advance()
        return Labelled(frame, pending, given, None if given else self._due_state(), backwards=True)

    def turn(self) -> None:
        """The way backwards is complete: the objects are shown anew."""
        self.segmenter.reset()
        self.state_after = None
        self._since_state = 0

    def _begin(self, first: Pending) -> None:
        """Begin the output folder once the first label map is there."""
        if not self.begun:
            first.result()
            self.job.output.begin(self.record, resume=self.restart.done > 0, overlay=self.job.request.overlay)
            self.begun = True

    def _due_state(self) -> dict[str, NDArray[Any]] | None:
        self._since_state += 1
        if self._since_state < STATE_EVERY or not self.job.keeps_state:
            return None
        self._since_state = 0
        return self.segmenter.state_dict()

    def _submit(self, frame: Frame, mask: NDArray[np.uint8] | None) -> Pending:
        self.state_after = None
        pending = self.segmenter.submit(frame.image, mask, correct=self.job.request.correct)
        self.state_after = frame.index
        return pending


class _ResultWriter:
    """The end of the pipeline: masks as PNGs, and the overlay video.

    Attributes:
        written: masks written.
        tally: counts what they show.
    """

    def __init__(self, job: Job, window: OverlayWindow | None, stop: threading.Event) -> None:
        self.job = job
        self.tally = Tally()
        self.written = 0
        self._window = window
        self._stop = stop
        self._overlay: OverlayVideo | None = None

    def write(self, result: Labelled, /) -> None:
        """Write a frame's mask, then its overlay."""
        output, source = self.job.output, self.job.source
        labels = result.pending.result()
        if not result.stored:
            output.write_mask(result.frame.name, labels)
            self.written += 1
        if result.state is not None:
            output.save_state(result.frame.index, result.state)
        if result.backwards:
            return
        self.tally.add(result.frame.name, labels)
        if not self.job.request.overlay and self._window is None:
            return
        picture = draw_overlay(result.frame.image, labels)
        if self._window is not None and not self._window.show(picture):
            self._stop.set()
        if self.job.request.overlay:
            if self._overlay is None:
                self._overlay = OverlayVideo(
                    output.overlay, source.size, source.rate, source.time_base, source.pixel_aspect
                )
            duration = result.frame.duration * self.job.request.every
            self._overlay.write(picture, result.frame.time, duration)

    def close(self) -> None:
        """Finish the overlay."""
        if self._overlay is not None:
            self._overlay.close()


def _check_range(request: Request) -> None:
    if request.every < 1:
        raise SettingsError(f"every is {request.every}: expected 1 or more")
    if request.start < 0:
        raise SettingsError(f"start is {request.start}: expected 0 or more")
    if request.end is not None and request.end <= request.start:
        raise SettingsError(f"end is {request.end}: expected more than start, {request.start}")
    if request.start_mask is not None:
        if request.mask.is_dir():
            raise SettingsError(
                f"start-mask is {request.start_mask}, and {request.mask} is a folder, whose masks are named like their "
                "frames: leave it out, --backward goes backwards from the first of them"
            )
        if request.start_mask < request.start or (request.end is not None and request.start_mask >= request.end):
            until = "" if request.end is None else f" to {request.end - 1}"
            raise SettingsError(f"start-mask is {request.start_mask}: expected {request.start}{until or ' or more'}")
    elif request.backward and request.mask.is_file():
        raise SettingsError(
            f"the mask belongs to frame {request.start}, the first, so nothing goes backwards: say with --start-mask "
            "which frame it belongs to"
        )
    if request.live and (request.both_ways or request.resume):
        wrong = "--resume" if request.resume else "--backward or --start-mask"
        raise SettingsError(f"{wrong} with a live source, whose frames come once: leave it out")
    if request.overwrite and request.resume:
        raise SettingsError("both overwrite and resume are set: expected one of them")


@contextmanager
def _set_on_signal(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on Ctrl-C or a termination signal, at once and quietly; a second Ctrl-C interrupts as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in signals}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def on_signal(number: int, stack: object) -> None:
        stop.set()
        restore()

    for number in signals:
        signal.signal(number, on_signal)
    try:
        yield
    finally:
        restore()
