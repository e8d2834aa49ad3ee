"""A window that shows pictures as they come."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import DeviceError

START_SECONDS = 20.0
EVENTS_MS = 20
"""How often the window looks for pictures and keys."""
QUIT_KEYS = {ord("q"), 27}


class OverlayWindow:
    """OpenCV's window in a process of its own: a toolkit without a display ends its process, and wants its main thread.

    It never holds up who shows: pictures that come while the last is being drawn are passed over.
    """

    def __init__(self, title: str) -> None:
        """Open it.

        Raises:
            DeviceError: this OpenCV has no windows, or there is no display.
        """
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        self._process = spawn.Process(target=_show, args=(there, title), name="window", daemon=True)
        self._process.start()
        there.close()
        try:
            failure = self._here.recv() if self._here.poll(START_SECONDS) else "it does not open"
        except EOFError:
            failure = "there is no display that it can use"
        if failure is not None:
            self.close()
            raise DeviceError(f"no window can be shown: {failure}; leave out --show, OUT/overlay.mp4 shows the same")
        self._busy = False

    @classmethod
    @contextmanager
    def opened(cls, title: str) -> Iterator[Self]:
        """One that is closed behind the block."""
        window = cls(title)
        try:
            yield window
        finally:
            window.close()

    def show(self, picture: NDArray[np.uint8]) -> bool:
        """Show a picture (H, W, 3) RGB.

        Returns:
            Whether the window is still there: who looks at it may close it.
        """
        try:
            while self._here.poll():
                self._here.recv()
                self._busy = False
            if not self._busy:
                self._here.send(picture)
                self._busy = True
        except (EOFError, OSError):
            return False
        return True

    def close(self) -> None:
        """Close it."""
        self._here.close()
        self._process.join(1.0)
        self._process.kill()
        self._process.join()


def _show(pictures: Connection, title: str) -> None:
    """Show what comes until the window or the connection is closed."""
    # Ctrl-C is for the process that shows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What the toolkit says before it gives up is told by whoever opened the window.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.waitKey(1)
    except cv2.error:
        pictures.send("this OpenCV has no windows (opencv-python has, opencv-python-headless has not)")
        return
    pictures.send(None)
    sized = False
    try:
        while True:
            if pictures.poll():
                picture = pictures.recv()
                if not sized:
                    cv2.resizeWindow(title, picture.shape[1], picture.shape[0])
                    sized = True
                cv2.imshow(title, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                pictures.send(True)
            if cv2.waitKey(EVENTS_MS) & 0xFF in QUIT_KEYS or cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) < 1:
                return
    except (EOFError, OSError):
        pass
