"""Tracking: frame by frame from one that has masks, onwards or backwards, from the nearest state that still holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from ..errors import SettingsError
from ..runtime.segmenter import Segmenter
from .frames import FrameCache
from .project import Labels, Project, counted
from .record import Choices, Seen
from .states import EVERY, States

SAVE_EVERY_S = 1.0


class Tracker:
    """Follows a project's objects through its film.

    Attributes:
        states: of the segmenter, from which a correction goes on.
    """

    def __init__(
        self,
        frames: FrameCache,
        project: Project,
        stopped: Callable[[], bool],
        tell: Callable[[dict[str, Any]], None],
        show: Callable[[int, Labels], None],
    ) -> None:
        """Nothing is loaded yet.

        Args:
            frames: the film.
            project: what is tracked, and where it is written.
            stopped: says whether to end after the frame that is being computed.
            tell: is given what the page must know.
            show: is given a frame's new label map.
        """
        self.states = States(project.folder / "states")
        self._frames, self._project = frames, project
        self._stopped, self._tell, self._show = stopped, tell, show
        self._segmenter: Segmenter | None = None
        self._used: Choices | None = None

    def track(self, frame: int, direction: int, count: int | None) -> None:
        """Follow the objects.

        Args:
            frame: the first one, which must have masks.
            direction: 1 onwards, -1 backwards.
            count: of further frames; all if None.

        Raises:
            JointError: the frame has no masks, the bundle cannot be used, or the film cannot be read.
        """
        self._load()
        end = self._frames.count if direction > 0 else -1
        if count is not None:
            wanted = frame + direction * (count + 1)
            end = min(end, wanted) if direction > 0 else max(end, wanted)
        self._run(self._go_back(frame, direction), frame, end, direction)

    def _load(self) -> None:
        choices = self._project.record.choices
        if self._segmenter is None or self._used != choices:
            self._tell({"kind": "status", "text": f"loading {choices.bundle}"})
            self._segmenter = Segmenter.load(**choices.model_dump())
            self._used = choices.model_copy()
            self.states.use(f"{choices.model_dump_json()} {self._segmenter.runs_on}")

    def _go_back(self, frame: int, direction: int) -> int:
        """Restore the tracker to before a frame, if it came so far, or clear it. Returns the frame to feed it from."""
        assert self._segmenter is not None
        self.states.forget(frame, direction)
        at = self.states.before(direction, frame)
        seen = self._project.record.seen
        if at is not None and all(k in seen for k in range(at + direction, frame, direction)):
            state = self.states.get(direction, at)
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
        for done, picture in enumerate(self._frames.walk(begin, end)):
            if self._stopped():
                return
            at = picture.index
            labels = segmenter.step(picture.image, self._truth(at, segmenter), correct=True)
            if (at - frame) * direction < 0:
                self._tell({"kind": "status", "text": f"going over frame {at + 1} again"})
                continue
            given = self._project.record.given.get(at)
            shown = self._with_given(at, labels, given)
            self._project.computed(at, shown, self._seen(shown, segmenter))
            if at % EVERY == 0 or at == frame:
                self.states.put(direction, at, segmenter.state_dict())
            self._show(at, shown)
            now = time.monotonic()
            rate = (done + 1) / (now - begun)
            seen = {str(i): item.model_dump() for i, item in self._project.record.seen[at].items()}
            left = (total - abs(at - frame) - 1) / rate
            self._tell(
                {"kind": "progress", "frame": at, "fps": rate, "left": left, "runs_on": segmenter.runs_on, "seen": seen}
            )
            if now - saved > SAVE_EVERY_S:
                self._project.save()
                saved = now

    def _truth(self, at: int, segmenter: Segmenter) -> Labels | None:
        """The label map of what a person gave in a frame; all that is there where tracking begins."""
        labels = self._project.labels(at)
        if segmenter.object_ids:
            given = self._project.record.given.get(at, [])
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
        own = self._project.labels(at)
        kept = np.where(np.isin(labels, given), np.uint8(0), labels)
        return np.where(np.isin(own, given), own, kept)

    def _seen(self, labels: Labels, segmenter: Segmenter) -> dict[int, Seen]:
        counts = counted(labels)
        return {
            i: Seen(area=int(counts[i]), sure=round(float(cv2.mean(p, mask=(labels == i).view(np.uint8))[0]), 3))
            for i, p in segmenter.probabilities().items()
            if counts[i]
        }
