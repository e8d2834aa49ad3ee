"""Frames as they come: a camera, a stream from a network, or one on the standard input."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ...errors import VideoError
from .sources import TEXT_FORMATS, Decoding, Frame, orientation, upright, video_stream

ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://.+")
CAMERA = re.compile(r"camera:(.+)")
STDIN = "-"
OPEN_SECONDS, SILENT_SECONDS = 15.0, 30.0
"""How long a network's answer is waited for, and then the next of its packets."""
KEPT_AHEAD = 4
"""Frames that may wait where all are kept; then the sender waits."""
CAMERA_RATE = Fraction(30)
"""Frames per second of a camera that does not say."""


def is_live(text: str) -> bool:
    """Whether a source is a camera (`camera:0`), an address (`rtsp://...`) or the standard input (`-`), and no path."""
    return text == STDIN or CAMERA.fullmatch(text) is not None or ADDRESS.fullmatch(text) is not None


def live_name(text: str) -> str:
    """What a live source's results are called: `camera-0`, `stdin`, or the address's host."""
    if text == STDIN:
        return "stdin"
    if camera := CAMERA.fullmatch(text):
        return "camera-" + re.sub(r"\W+", "-", camera[1]).strip("-")
    return re.sub(r"[^\w.-]+", "-", urlsplit(text).hostname or "stream")


def open_live(text: str, *, keep_all: bool = False) -> LiveSource:
    """Wait for a live source's first frame.

    A source that says how long it lasts, such as a film behind an address, is a recording: all its frames are kept.

    Args:
        text: see `is_live`.
        keep_all: let the sender wait instead of dropping what cannot be kept up with.

    Raises:
        VideoError: it cannot be opened, or no frame came.
    """
    camera = CAMERA.fullmatch(text)
    feed: Feed = _Camera(text, camera[1]) if camera else _Stream(text)
    return LiveSource(feed, keep_all=keep_all or feed.recorded)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a feed gives.

    Attributes:
        raw: the picture, as the feed's `image` takes it.
        time: seconds since the feed's zero.
        duration: seconds.
    """

    raw: Any
    time: Fraction
    duration: Fraction


class Feed(Protocol):
    """What gives pictures once, in order.

    Attributes:
        name: what it is called; an address without password and query.
        size, rate, time_base, pixel_aspect: see `Source`.
        recorded: whether it says how long it lasts.
        broken: whether it ended before its end.
    """

    name: str
    size: tuple[int, int]
    rate: Fraction
    time_base: Fraction
    pixel_aspect: Fraction
    recorded: bool
    broken: bool

    def pictures(self) -> Iterator[Picture]:
        """All pictures; closed, it lets go of the device."""

    def image(self, raw: Any) -> NDArray[np.uint8]:
        """A picture as (H, W, 3) uint8 RGB, upright."""


class LiveSource:
    """A `Source` whose frames come once.

    A thread takes them from the feed. Where the run is slower, only the newest frame waits and older ones are dropped;
    frames keep their order and their numbers, so that dropped ones are gaps between the names.

    Attributes:
        dropped: frames that were to be segmented and were not.
        keep_all: whether the feed waits instead.
    """

    def __init__(self, feed: Feed, *, keep_all: bool) -> None:
        self.feed = feed
        self.path: str = feed.name
        self.keep_all = keep_all
        self.size, self.rate = feed.size, feed.rate
        self.time_base, self.pixel_aspect = feed.time_base, feed.pixel_aspect
        self.count: int | None = None
        self.damage: str | None = None
        kept = "all its frames are kept" if keep_all else "what cannot be kept up with is dropped; --keep-all keeps all"
        self.notes: tuple[str, ...] = (f"{self.path} is read as it comes: {kept}",)
        self.dropped = 0
        self._needed: frozenset[int] = frozenset()
        self._pictures = feed.pictures()
        self._next: tuple[int, Picture] | None = None
        self._taken = False
        self._advance(0)

    def name(self, index: int) -> str:
        """See `VideoFile.name`."""
        return f"{index:05d}"

    def index_of(self, name: str) -> int | None:
        """See `VideoFile.index_of`."""
        return int(name) if name.isascii() and name.isdigit() else None

    def fingerprint(self) -> str:
        """Digest of the name: frames that come once have no other."""
        return hashlib.sha256(self.path.encode(errors="surrogateescape")).hexdigest()

    def need(self, numbers: Iterable[int]) -> None:
        """Frames that are never dropped, since masks are given for them."""
        self._needed = frozenset(numbers)

    def peek(self, number: int) -> NDArray[np.uint8]:
        """Frame `number`, (H, W, 3) uint8 RGB; the frames before it are gone.

        Raises:
            VideoError: the source ends before it.
        """
        return self.feed.image(self._advance(number).raw)

    def _advance(self, number: int) -> Picture:
        at = -1 if self._next is None else self._next[0]
        while self._next is None or at < number:
            picture = next(self._pictures, None)
            if picture is None:
                raise VideoError(f"{self.path} ends before frame {number}: expected a stream that goes on")
            at += 1
            self._next = (at, picture)
        return self._next[1]

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Iterator[Frame]:
        """See `Source.frames`; once only, from no frame before one that was looked at.

        Raises:
            VideoError: see `Source.frames`; or they were taken before.
        """
        first = 0 if self._next is None else self._next[0]
        if self._taken or start < first:
            raise VideoError(f"{self.path} cannot be read again from frame {start}: its frames come once")
        self._taken = True
        queue = _Queue(KEPT_AHEAD if self.keep_all else 1, drop=not self.keep_all)
        numbers = _Numbers(start, stop, every, self._needed | {start})
        reader = threading.Thread(target=self._read, args=(queue, numbers), name="live", daemon=True)
        reader.start()
        try:
            while (taken := queue.take()) is not None:
                index, picture = taken
                self.dropped = queue.dropped
                image = self.feed.image(picture.raw)
                if image.shape[:2] != self.size:
                    raise VideoError(
                        f"{self.path}: frame {index} is {image.shape[1]}x{image.shape[0]}, those before were "
                        f"{self.size[1]}x{self.size[0]}: expected one size"
                    )
                yield Frame(index, self.name(index), image, picture.time, picture.duration)
        finally:
            queue.abandon()
        self.dropped = queue.dropped
        if queue.failure is not None:
            raise queue.failure
        if self.feed.broken:
            self.damage = f"{self.path} broke off, or sent nothing for {SILENT_SECONDS:g} s"

    def backwards(self, last: int, first: int = 0, every: int = 1) -> Iterator[Frame]:
        """Frames that come once cannot be read backwards.

        Raises:
            VideoError: always.
        """
        raise VideoError(f"{self.path} comes once: nothing goes backwards")

    def _read(self, queue: _Queue, numbers: _Numbers) -> None:
        try:
            for index, picture in self._numbered():
                if numbers.stop is not None and index >= numbers.stop:
                    break
                if numbers.wanted(index) and not queue.put(index, picture, index in numbers.needed):
                    break
        except Exception as failure:
            queue.failure = failure
        finally:
            # The thread that reads a device is the one that may close it.
            self._pictures.close()  # type: ignore[attr-defined]
            queue.end()

    def _numbered(self) -> Iterator[tuple[int, Picture]]:
        assert self._next is not None
        first, picture = self._next
        self._next = None
        yield first, picture
        yield from enumerate(self._pictures, first + 1)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Which frames are segmented."""

    start: int
    stop: int | None
    every: int
    needed: frozenset[int]

    def wanted(self, index: int) -> bool:
        return index >= self.start and (index - self.start) % self.every == 0


class _Queue:
    """Pictures in order from the thread that reads to the one that takes; of those that are too many the oldest goes.

    Attributes:
        dropped: how many went.
        failure: what ended the reading, if it was not the end.
    """

    def __init__(self, most: int, *, drop: bool) -> None:
        self.dropped = 0
        self.failure: Exception | None = None
        self._most = most
        self._drop = drop
        self._waiting: deque[tuple[int, Picture, bool]] = deque()
        self._changed = threading.Condition()
        self._ended = self._abandoned = False

    def put(self, index: int, picture: Picture, needed: bool) -> bool:
        """Add a picture; one that is needed is never dropped.

        Returns:
            Whether further ones are wanted.
        """
        with self._changed:
            while len(self._waiting) >= self._most and not self._abandoned:
                old = next((n for n, held in enumerate(self._waiting) if not held[2]), None) if self._drop else None
                if old is None:
                    self._changed.wait()
                    continue
                del self._waiting[old]
                self.dropped += 1
            self._waiting.append((index, picture, needed))
            self._changed.notify_all()
            return not self._abandoned

    def end(self) -> None:
        """Nothing follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nothing more is wanted."""
        with self._changed:
            self._abandoned = True
            self._waiting.clear()
            self._changed.notify_all()

    def take(self) -> tuple[int, Picture] | None:
        """The next picture; None behind the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            index, picture, _ = self._waiting.popleft()
            self._changed.notify_all()
            return index, picture


class _Stream:
    """An address, or the standard input, through PyAV."""

    def __init__(self, text: str) -> None:
        self.name = "the standard input" if text == STDIN else _without_secrets(text)
        self.broken = False
        self._container = self._open(text)
        self._stream = video_stream(self._container, self.name)
        self.recorded = bool(self._container.duration)
        self.rate = Fraction(self._stream.average_rate or self._stream.guessed_rate or 25)
        self.time_base = Fraction(self._stream.time_base)
        self._reformatter = VideoReformatter()
        self._decoding = Decoding(self._container, self._stream)
        self._decoded = self._decoding.frames()
        first = next(self._decoded, None)
        if first is None:
            raise VideoError(f"{self.name} sent no frame that can be decoded: expected a video stream")
        self._first: av.VideoFrame | None = first
        image = self.image(first)
        self.size: tuple[int, int] = (image.shape[0], image.shape[1])
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        self.pixel_aspect = 1 / aspect if orientation(first)[0, 0] == 0 else aspect

    def _open(self, text: str) -> Any:
        options = {"rtsp_transport": "tcp"} if text.startswith("rtsp") else {}
        try:
            container = av.open(
                "pipe:0" if text == STDIN else text,
                options=options,
                metadata_errors="replace",
                timeout=(OPEN_SECONDS, SILENT_SECONDS),
            )
        except (av.error.FFmpegError, OSError) as error:
            why = "nothing answers" if isinstance(error, av.error.ExitError) else error.strerror or error
            raise VideoError(
                f"{self.name} cannot be opened: {why}; expected a video that FFmpeg reads as it comes, such as MPEG-TS "
                "or Matroska (an MP4's index is written last)"
            ) from None
        if container.format.name in TEXT_FORMATS:
            container.close()
            raise VideoError(f"{self.name} is not a video but text: expected a stream that FFmpeg reads")
        return container

    def pictures(self) -> Iterator[Picture]:
        """See `Feed.pictures`."""
        assert self._first is not None
        held: av.VideoFrame | None = self._first
        self._first = None
        expected = Fraction(0)
        try:
            while held is not None:
                time = expected if held.pts is None else held.pts * self.time_base
                duration = held.duration * self.time_base if held.duration else 1 / self.rate
                yield Picture(held, time, duration)
                expected = time + duration
                held = next(self._decoded, None)
            self.broken = self._decoding.broken
        finally:
            self._container.close()

    def image(self, raw: av.VideoFrame) -> NDArray[np.uint8]:
        """See `Feed.image`."""
        return upright(raw, orientation(raw), self._reformatter)


class _Camera:
    """A camera through OpenCV, which knows those of every system; times are when its pictures came."""

    recorded = False
    time_base = Fraction(1, 1000)
    pixel_aspect = Fraction(1)

    def __init__(self, text: str, device: str) -> None:
        self.name = text
        self.broken = False
        log = cv2.utils.logging
        before = log.setLogLevel(log.LOG_LEVEL_SILENT)
        try:
            self._capture = cv2.VideoCapture(int(device) if device.isdecimal() else device)
        finally:
            log.setLogLevel(before)
        if not self._capture.isOpened():
            raise VideoError(f"{text} cannot be opened: expected a camera's number or device that no program holds")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = Fraction(rate).limit_denominator(1001) if 1 <= rate <= 1000 else CAMERA_RATE
        self._begun = time.monotonic()
        there, self._first = self._capture.read()
        if not there:
            raise VideoError(f"{text} gave no frame: expected a camera that is switched on")
        self.size: tuple[int, int] = (self._first.shape[0], self._first.shape[1])

    def pictures(self) -> Iterator[Picture]:
        """See `Feed.pictures`."""
        there, raw, last = True, self._first, Fraction(-1)
        try:
            while there:
                now = Fraction(round(1000 * (time.monotonic() - self._begun)), 1000)
                last = max(now, last + self.time_base)
                yield Picture(raw, last, 1 / self.rate)
                there, raw = self._capture.read()
            self.broken = True
        finally:
            self._capture.release()

    def image(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `Feed.image`."""
        return np.asarray(cv2.cvtColor(raw, cv2.COLOR_BGR2RGB), np.uint8)


def _without_secrets(address: str) -> str:
    """An address without name, password and query."""
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
