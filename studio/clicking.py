"""Masks from a person's clicks, each going on from the one before."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import SettingsError
from ..runtime.clicks.prompts import Box, Click
from ..runtime.clicks.segmenter import ClickSegmenter
from .frames import FrameCache
from .project import Project


class Clicking:
    """The network for clicks, looking at one frame at a time; loaded when it is first needed."""

    def __init__(self, frames: FrameCache, project: Project) -> None:
        self._frames, self._project = frames, project
        self._segmenter: ClickSegmenter | None = None
        self._frame: int | None = None
        self._soft: tuple[int, int, NDArray[np.float32]] | None = None

    def ready(self, frame: int) -> bool:
        """Whether a first click in a frame waits neither for the network nor for the picture."""
        return self._frame == frame

    def prepare(self, frame: int) -> None:
        """Do what a first click in a frame would wait for.

        Raises:
            JointError: the network cannot be loaded, or the frame not read.
        """
        if not self.ready(frame):
            self._look_at(frame).prepare()
            self._frame = frame

    def predict(self, frame: int, object_id: int, clicks: list[Click], box: Box | None) -> NDArray[np.bool_]:
        """Where the object is in a frame (H, W), its last mask mended.

        Raises:
            JointError: the network cannot be loaded, the frame not read, or nothing is found.
        """
        segmenter = self._look_at(frame)
        self._frame = frame
        last = None
        if clicks and self._soft is not None and self._soft[:2] == (frame, object_id):
            last = self._soft[2]
        elif clicks:
            there = self._project.labels(frame) == object_id
            last = there.astype(np.float32) if there.any() else None
        mask = segmenter.predict(clicks, box, last)
        region: NDArray[np.bool_] = mask > 0.5
        if not region.any():
            raise SettingsError("nothing was found there: draw a box about the object, or click on it again")
        self._soft = (frame, object_id, mask)
        return region

    def forget(self) -> None:
        """Go on from the masks of the project, which have changed."""
        self._soft = None

    def _look_at(self, frame: int) -> ClickSegmenter:
        if self._segmenter is None:
            self._segmenter = ClickSegmenter.load()
        if self._frame != frame:
            self._segmenter.set_image(self._frames.exact(frame))
            self._frame, self._soft = None, None
        return self._segmenter
