"""One person's work on one film: clicks, strokes and tracking, all inference in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import JointError, SettingsError
from ..runtime.clicks.prompts import Box, Click
from .clicking import Clicking
from .frames import FrameCache
from .project import Labels, Project
from .record import Choices
from .tracker import Tracker

REST_S = 0.25
"""A frame that is looked at for so long is made ready for clicks."""
REACH = 48
"""Pixels about a stretch of the lasso among which its way is sought."""
Tell = Callable[[dict[str, Any]], None]
Show = Callable[[int, Labels], None]


class Session:
    """Takes a person's actions, computes in its own thread, and tells what comes of them.

    Attributes:
        frames: the film.
        project: what was made of it.
        clicking: what makes masks of clicks.
        tracking: whether the film is being tracked or saved.
    """

    def __init__(self, path: Path, name: str, folder: Path, cache: Path, tell: Tell, show: Show) -> None:
        """Open a film.

        Args:
            path: the film.
            name: how a person knows it.
            folder: of its project.
            cache: of all films' JPEGs.
            tell: is given what the page must know.
            show: is given a frame's new label map.

        Raises:
            JointError: film or project cannot be opened.
        """
        self.frames = FrameCache(path, cache)
        try:
            self.project = Project(folder, self.frames.fingerprint, self.frames.size)
            self.project.rebuild_seen()
        except JointError:
            self.frames.close()
            raise
        self.path, self.name = path, name
        self.tracking = False
        self._tell, self._show = tell, show
        self._stop = threading.Event()
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._latest_click: dict[tuple[int, int], int] = {}
        self.clicking = Clicking(self.frames, self.project)
        self._tracker = Tracker(self.frames, self.project, self._stop.is_set, tell, show)
        self._unready: int | None = self.project.record.frame
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and save."""
        self._stop.set()
        self._jobs.put(None)
        self._thread.join()
        self.frames.close()
        self.project.close()

    def look(self, frame: int) -> None:
        """A person looks at a frame: if it is for long, the first click there shall not wait."""
        self.project.record.frame = frame

        def job() -> None:
            self._unready = frame

        if not self.tracking:
            self._jobs.put(job)

    def click(self, frame: int, object_id: int, clicks: list[Click], box: Box | None) -> None:
        """Compute an object's mask from clicks and a box; dropped if more of its clicks come before it is begun."""
        self._refuse_while_tracking()
        self.project.object(object_id)
        place = (frame, object_id)
        turn = self._latest_click[place] = self._latest_click.get(place, 0) + 1

        def job() -> None:
            if turn != self._latest_click[place]:
                return
            begun = time.perf_counter()
            shown = self._edited(frame, object_id, self.clicking.predict(frame, object_id, clicks, box))
            self._tell({"kind": "clicked", "ms": 1000 * (shown - begun)})

        self._jobs.put(job)

    def paint(self, frame: int, object_id: int, points: NDArray[np.float32], width: float, mode: str) -> None:
        """A stroke of the brush or eraser, or a closed outline; done at once, after what is being computed."""
        self._refuse_while_tracking()

        def job() -> None:
            region = self.project.labels(frame) == object_id
            stroke = np.zeros(region.shape, np.uint8)
            line = np.round(points * 16).astype(np.int32)
            if mode == "fill":
                cv2.fillPoly(stroke, [line], 1, shift=4)
            elif len(line) == 1:
                cv2.circle(stroke, (int(line[0, 0]), int(line[0, 1])), round(width * 8), 1, -1, shift=4)
            else:
                cv2.polylines(stroke, [line], False, 1, max(1, round(width)), shift=4)
            region = region & (stroke == 0) if mode == "erase" else region | (stroke != 0)
            self.clicking.forget()
            self._edited(frame, object_id, region)

        self._jobs.put(job)

    def contour(self, frame: int, leg: int, start: tuple[int, int], end: tuple[int, int]) -> None:
        """The lasso's way along edges between two points, told as "contour" with the number of the stretch."""

        def job() -> None:
            image = self.frames.exact(frame)
            corner = np.maximum(np.minimum(start, end) - REACH, 0)
            right, bottom = np.maximum(start, end) + REACH + 1
            part = np.ascontiguousarray(image[corner[1] : bottom, corner[0] : right, ::-1])
            tool = cv2.segmentation.IntelligentScissorsMB()  # type: ignore[attr-defined]
            tool.setEdgeFeatureCannyParameters(32, 100)
            tool.setGradientMagnitudeMaxLimit(200)
            tool.applyImage(part)
            tool.buildMap((np.array(start) - corner).tolist())
            path = np.asarray(tool.getContour((np.array(end) - corner).tolist())).reshape(-1, 2) + corner
            self._tell({"kind": "contour", "leg": leg, "points": path.tolist()})

        self._jobs.put(job)

    def undo(self, *, again: bool = False) -> None:
        """Take the last change back, or make it again, in whichever frame it was."""
        self._refuse_while_tracking()

        def job() -> None:
            frames = self.project.undo(again=again)
            if frames is not None:
                self._changed(frames, go=frames[0] if len(frames) == 1 else None)

        self._jobs.put(job)

    def remove(self, object_id: int) -> None:
        """Take an object out of the project."""
        self._refuse_while_tracking()
        name = self.project.object(object_id).name

        def job() -> None:
            self._tell({"kind": "status", "text": f"removing {name} from all frames"})
            self._changed(self.project.remove(object_id))

        self._jobs.put(job)

    def choose(self, choices: Choices) -> None:
        """Compute otherwise from the next tracking on."""
        self._refuse_while_tracking()
        self.project.record.choices = choices
        self.project.save()

    def track(self, frame: int, *, backwards: bool = False, count: int | None = None) -> None:
        """Follow the objects from a frame on, to the film's end or over `count` further frames."""
        self.begin()
        self._unready = None
        self._jobs.put(lambda: self._track(frame, -1 if backwards else 1, count))

    def begin(self) -> None:
        """Let nothing else be begun until long work has ended.

        Raises:
            SettingsError: there is such work already.
        """
        self._refuse_while_tracking()
        self._stop.clear()
        self.tracking = True

    def stop(self) -> None:
        """End long work after the frame that is being computed."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether long work should end."""
        return self._stop.is_set()

    def submit(self, job: Callable[[], None]) -> None:
        """Do something else in the thread, such as an export."""
        self._jobs.put(job)

    def _refuse_while_tracking(self) -> None:
        if self.tracking:
            raise SettingsError("the film is being tracked or saved: press stop first")

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                job()
            except JointError as error:
                self._tell({"kind": "error", "text": str(error)})
            except Exception as error:  # The thread must live: what is not foreseen is told like the rest.
                self._tell({"kind": "error", "text": f"{type(error).__name__}: {error}"})

    def _next(self) -> Callable[[], None] | None:
        """What to do next; where there is nothing for a while, the frame that is looked at is made ready."""
        try:
            return self._jobs.get(timeout=None if self._unready is None else REST_S)
        except queue.Empty:
            return self._make_ready

    def _make_ready(self) -> None:
        frame, self._unready = self._unready, None
        if frame is not None:
            with suppress(JointError):  # A click says it again, to the user.
                self.clicking.prepare(frame)

    def _changed(self, frames: list[int], go: int | None = None) -> None:
        """Tell that masks are others than before, and where to look."""
        for frame in frames:
            self._tracker.states.forget(frame)
        self.clicking.forget()
        where = {} if go is None else {"go": go}
        self._tell({"kind": "project", **self.project.describe(), "changed": frames, **where})

    def _track(self, frame: int, direction: int, count: int | None) -> None:
        try:
            self._tracker.track(frame, direction, count)
        finally:
            self.tracking = False
            self.project.save()
            self._tell({"kind": "tracked", **self.project.describe()})

    def _edited(self, frame: int, object_id: int, region: NDArray[np.bool_]) -> float:
        """An object is given anew: shown first, then written. Returns when it was shown, as `time.perf_counter`."""
        self._tracker.states.forget(frame)
        labels = self.project.merged(frame, object_id, region)
        self._show(frame, labels)
        shown = time.perf_counter()
        try:
            self.project.edit(frame, object_id, labels)
        except JointError:
            self._changed([frame])
            raise
        self._tell({"kind": "project", **self.project.describe()})
        return shown
