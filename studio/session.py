"""One person's work on one film: clicks, strokes and tracking, all inference in one thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import JointError, SettingsError
from ..runtime.clicks.prompts import Click
from ..runtime.clicks.segmenter import ClickSegmenter
from ..runtime.segmenter import Segmenter
from .frames import FrameCache
from .project import Choices, Labels, Project, Seen, counted
from .states import EVERY, States

SAVE_EVERY_S = 1.0
REACH = 48
"""Pixels about a stretch of the lasso among which its way is sought."""
Tell = Callable[[dict[str, Any]], None]
Show = Callable[[int, bytes], None]


class Session:
    """Takes a person's actions, computes in its own thread, and tells what comes of them.

    Attributes:
        frames: the film.
        project: what was made of it.
    """

    def __init__(self, path: Path, name: str, folder: Path, cache: Path, tell: Tell, show: Show) -> None:
        """Open a film.

        Args:
            path: the film.
            name: how a person knows it.
            folder: of its project.
            cache: of all films' JPEGs.
            tell: is given what the page must know.
            show: is given a frame's new masks as PNG.

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
        self._clicker: ClickSegmenter | None = None
        self._clicked: int | None = None
        self._soft: tuple[int, int, NDArray[np.float32]] | None = None
        self._segmenter: Segmenter | None = None
        self._used: Choices | None = None
        self._states = States(folder / "states")
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, and save."""
        self._stop.set()
        self._jobs.put(None)
        self._thread.join()
        self.frames.close()
        self.project.close()

    def click(
        self, frame: int, object_id: int, clicks: list[Click], box: tuple[float, float, float, float] | None
    ) -> None:
        """Compute an object's mask from clicks and a box; dropped if more of its clicks come before it is begun."""
        self._refuse_while_tracking()
        self.project.object(object_id)
        place = (frame, object_id)
        turn = self._latest_click[place] = self._latest_click.get(place, 0) + 1

        def job() -> None:
            if turn != self._latest_click[place]:
                return
            begun = time.perf_counter()
            self._predict(frame, object_id, clicks, box)
            self._tell({"kind": "clicked", "ms": 1000 * (time.perf_counter() - begun)})

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
            frame = self.project.undo(again=again)
            if frame is not None:
                self._states.forget(frame)
                self._soft = None
                self._show(frame, self.project.png(frame) or b"")
                self._tell({"kind": "project", **self.project.describe(), "go": frame})

        self._jobs.put(job)

    def remove(self, object_id: int) -> None:
        """Take an object out of the project."""
        self._refuse_while_tracking()

        def job() -> None:
            self._states.clear()
            self._soft = None
            for frame in self.project.remove(object_id):
                self._show(frame, self.project.png(frame) or b"")
            self._tell({"kind": "project", **self.project.describe()})

        self._jobs.put(job)

    def choose(self, choices: Choices) -> None:
        """Compute otherwise from the next tracking on."""
        self._refuse_while_tracking()
        self.project.record.choices = choices
        self.project.save()

    def track(self, frame: int, *, backwards: bool = False, count: int | None = None) -> None:
        """Follow the objects from a frame on, to the film's end or over `count` further frames."""
        self.begin()
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
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except JointError as error:
                self._tell({"kind": "error", "text": str(error)})
            except Exception as error:  # The thread must live: what is not foreseen is told like the rest.
                self._tell({"kind": "error", "text": f"{type(error).__name__}: {error}"})

    def _predict(
        self, frame: int, object_id: int, clicks: list[Click], box: tuple[float, float, float, float] | None
    ) -> None:
        if self._clicker is None:
            self._clicker = ClickSegmenter.load()
        if self._clicked != frame:
            self._clicker.set_image(self.frames.exact(frame))
            self._clicked, self._soft = frame, None
        last = None
        if clicks and self._soft is not None and self._soft[:2] == (frame, object_id):
            last = self._soft[2]
        elif clicks:
            there = self.project.labels(frame) == object_id
            last = there.astype(np.float32) if there.any() else None
        mask = self._clicker.predict(clicks, box, last)
        if not (mask > 0.5).any():
            raise SettingsError("nothing was found there: draw a box about the object, or click on it again")
        self._edited(frame, object_id, mask > 0.5)
        self._soft = (frame, object_id, mask)

    def _edited(self, frame: int, object_id: int, region: NDArray[np.bool_]) -> None:
        self._soft = None
        self._states.forget(frame)
        content = self.project.edit(frame, object_id, region)
        self._show(frame, content)
        self._tell({"kind": "project", **self.project.describe()})

    def _track(self, frame: int, direction: int, count: int | None) -> None:
        try:
            self._load()
            end = self.frames.count if direction > 0 else -1
            if count is not None:
                wanted = frame + direction * (count + 1)
                end = min(end, wanted) if direction > 0 else max(end, wanted)
            self._run(self._go_back(frame, direction), frame, end, direction)
        finally:
            self.tracking = False
            self.project.save()
            self._tell({"kind": "tracked", **self.project.describe()})

    def _load(self) -> None:
        choices = self.project.record.choices
        if self._segmenter is None or self._used != choices:
            self._tell({"kind": "status", "text": f"loading {choices.bundle}"})
            self._segmenter = Segmenter.load(choices.bundle, memory=choices.memory, interval=choices.interval)
            self._used = choices.model_copy()
            self._states.use(f"{choices.model_dump_json()} {self._segmenter.runs_on}")

    def _go_back(self, frame: int, direction: int) -> int:
        """Restore the tracker to before a frame, if it came so far, or clear it. Returns the frame to feed it from."""
        assert self._segmenter is not None
        self._states.forget(frame, direction)
        at = self._states.before(direction, frame)
        seen = self.project.record.seen
        if at is not None and all(k in seen for k in range(at + direction, frame, direction)):
            state = self._states.get(direction, at)
            if state is not None:
                self._segmenter.load_state_dict(state)
                return at + direction
        self._segmenter.reset()
        return frame

    def _run(self, begin: int, frame: int, end: int, direction: int) -> None:
        segmenter = self._segmenter
        assert segmenter is not None
        begun = saved = time.monotonic()
        total = abs(end - frame)
        for done, picture in enumerate(self.frames.walk(begin, end)):
            if self._stop.is_set():
                return
            at = picture.index
            labels = segmenter.step(picture.image, self._truth(at, segmenter), correct=True)
            if (at - frame) * direction < 0:
                self._tell({"kind": "status", "text": f"going over frame {at + 1} again"})
                continue
            given = self.project.record.given.get(at)
            shown = self._with_given(at, labels, given)
            content = self.project.computed(at, shown, self._seen(shown, segmenter))
            if at % EVERY == 0 or at == frame:
                self._states.put(direction, at, segmenter.state_dict())
            self._show(at, content)
            now = time.monotonic()
            rate = (done + 1) / (now - begun)
            seen = {str(i): item.model_dump() for i, item in self.project.record.seen[at].items()}
            left = (total - abs(at - frame) - 1) / rate
            self._tell(
                {"kind": "progress", "frame": at, "fps": rate, "left": left, "runs_on": segmenter.runs_on, "seen": seen}
            )
            if now - saved > SAVE_EVERY_S:
                self.project.save()
                saved = now

    def _truth(self, at: int, segmenter: Segmenter) -> Labels | None:
        """The label map of what a person gave in a frame; all that is there where tracking begins."""
        labels = self.project.labels(at)
        if segmenter.object_ids:
            given = self.project.record.given.get(at, [])
            labels = np.where(np.isin(labels, given), labels, np.uint8(0))
            return labels if labels.any() else None
        if not labels.any():
            raise SettingsError(
                f"frame {at + 1} has no mask: click on an object there first, or go to a frame that has"
            )
        return labels

    def _with_given(self, at: int, labels: Labels, given: list[int] | None) -> Labels:
        """Masks that a person gave stay as they were given."""
        if not given:
            return labels
        own = self.project.labels(at)
        kept = np.where(np.isin(labels, given), np.uint8(0), labels)
        return np.where(np.isin(own, given), own, kept)

    def _seen(self, labels: Labels, segmenter: Segmenter) -> dict[int, Seen]:
        counts = counted(labels)
        return {
            i: Seen(area=int(counts[i]), sure=round(float(cv2.mean(p, mask=(labels == i).view(np.uint8))[0]), 3))
            for i, p in segmenter.probabilities().items()
            if counts[i]
        }
