"""Frames by index: exact pictures for the network, JPEGs on disk for the page."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import SettingsError, VideoError
from ..files import replace_file
from ..runtime.video.sources import Frame, open_source

QUALITY = 90
CACHE_BYTES = 4 << 30
"""Of all films' JPEGs on disk; the frames least recently asked for go first, other films' before them."""


class FrameCache:
    """A film's frames; a thread decodes it once, forwards, and leaves a JPEG of every frame.

    Attributes:
        source: the film.
        fingerprint: of its contents.
        count: frames in it.
        size: width and height.
    """

    def __init__(self, path: Path, folder: Path, limit: int = CACHE_BYTES) -> None:
        """Open a film.

        Args:
            path: the film.
            folder: of all films' JPEGs; this film's lie in one named by its contents.
            limit: of bytes in `folder`.

        Raises:
            VideoError: it cannot be opened.
        """
        self.source = open_source(path)
        self.fingerprint = self.source.fingerprint()
        height, width = self.source.size
        self.size = (width, height)
        self._folder = folder / self.fingerprint[:32]
        self._limit = limit
        self._sizes: OrderedDict[int, int] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._full = False
        self._exact: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._folder.touch()
        for file in sorted(self._folder.glob("*.jpg")):
            self._sizes[int(file.stem)] = file.stat().st_size
        self._total = sum(self._sizes.values())
        self._limit = limit - self._make_room(folder, limit // 2)
        self.count = self.source.count or sum(1 for _ in self.source.frames())
        self._thread = threading.Thread(target=self._fill, name="jpeg-cache", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop decoding."""
        self._closed.set()
        self._thread.join()

    def jpeg(self, index: int) -> bytes:
        """A frame as JPEG.

        Raises:
            SettingsError: there is no such frame.
            VideoError: it cannot be read.
        """
        self._check(index)
        try:
            content = self._file(index).read_bytes()
        except FileNotFoundError:
            return self._keep(index, self.exact(index))
        with self._lock:
            if index in self._sizes:
                self._sizes.move_to_end(index)
        return content

    def exact(self, index: int) -> NDArray[np.uint8]:
        """A frame as decoded, (H, W, 3) uint8 RGB; errors as of `jpeg`."""
        self._check(index)
        with self._lock:
            kept = self._exact.get(index)
        if kept is not None:
            return kept
        for frame in self.source.frames(index, index + 1):
            with self._lock:
                self._exact[index] = frame.image
                while len(self._exact) > 4:
                    self._exact.popitem(last=False)
            return frame.image
        raise VideoError(f"{self.source.path}: frame {index} cannot be read; the film may end before it")

    def walk(self, start: int, stop: int) -> Iterator[Frame]:
        """Frames from `start` to before `stop`, backwards where `stop` is less."""
        yield from self.source.frames(start, stop) if stop >= start else self.source.backwards(start, stop + 1)

    def _make_room(self, folder: Path, limit: int) -> int:
        """Delete the JPEGs of films not opened for longest. Returns the bytes of those that stay."""
        total = 0
        others = [other for other in folder.iterdir() if other.is_dir() and other != self._folder]
        for other in sorted(others, key=lambda path: -path.stat().st_mtime):
            size = sum(file.stat().st_size for file in other.glob("*.jpg"))
            if total + size > limit:
                shutil.rmtree(other, ignore_errors=True)
            else:
                total += size
        return total

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise SettingsError(f"frame is {index}: expected 0 to {self.count - 1}")

    def _file(self, index: int) -> Path:
        return self._folder / f"{index:06d}.jpg"

    def _fill(self) -> None:
        if len(self._sizes) >= self.count:
            return
        try:
            for frame in self.source.frames():
                if self._closed.is_set() or self._full:
                    return
                if frame.index not in self._sizes:
                    self._keep(frame.index, frame.image)
        except VideoError:
            return  # Asking for the frame says it again, to the user.

    def _keep(self, index: int, image: NDArray[np.uint8]) -> bytes:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        content = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        replace_file(self._file(index), content)
        with self._lock:
            self._total += len(content) - self._sizes.pop(index, 0)
            self._sizes[index] = len(content)
            while self._total > self._limit and len(self._sizes) > 1:
                old, size = self._sizes.popitem(last=False)
                self._file(old).unlink(missing_ok=True)
                self._total -= size
                self._full = True
        return content
