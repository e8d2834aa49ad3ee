"""Objects followed on the host: one tracker each, and the merge of their scores (section 3.5)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..manifest import Geometry
from ..settings import Settings
from .aggregation import soft_aggregation, strongest
from .crop import OUTSIDE
from .frame_checks import check_frame, ids_in, nothing_to_follow, warn_of_unused
from .network import Network
from .protocol import Computed, Sight, State
from .tracker import ObjectTracker, PastedScores

Region = tuple[slice, slice]


class HostFollower:
    """See `protocol.Tracking`.

    Args:
        network: runs the graphs.
        geometry: of the network's crops.
        settings: how the bundle is used.
        clock: is told how long the stages take.

    Attributes:
        trackers: by object id, in the order in which the objects appeared.
    """

    ahead = 1

    def __init__(self, network: Network, geometry: Geometry, settings: Settings, clock: StageClock) -> None:
        self.network = network
        self.geometry = geometry
        self.clock = clock
        self._settings = settings
        self.reset()

    @property
    def settings(self) -> Settings:
        """How the bundle is used."""
        return self._settings

    @property
    def object_ids(self) -> tuple[int, ...]:
        """In the order in which they appeared."""
        return tuple(self.trackers)

    def reset(self) -> None:
        """Forget all objects; the next frame may have any size."""
        self.trackers: dict[int, ObjectTracker] = {}
        self._probabilities: NDArray[np.float32] | None = None
        self._region: Region = (slice(0, 0), slice(0, 0))

    def remove(self, object_id: int) -> None:
        """Forget an object; the others' maps of the last frame stay as they are."""
        index = self.object_ids.index(object_id)
        del self.trackers[object_id]
        if not self.trackers:
            self.reset()
        elif self._probabilities is not None:
            self._probabilities = np.delete(self._probabilities, index, axis=0)

    def set_interval(self, interval: int) -> None:
        """T from the next frame on, for all objects."""
        self._settings = dataclasses.replace(self.settings, interval=interval)
        for tracker in self.trackers.values():
            tracker.settings = self.settings

    def step(
        self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, correct: bool = False
    ) -> NDArray[np.uint8]:
        """See `Segmenter.step`."""
        known = self._probabilities
        frame = check_frame(frame, None if known is None else (known.shape[1], known.shape[2]))
        given = [] if mask is None else ids_in(mask, frame.shape[:2])
        appearing = [i for i in given if i not in self.trackers]
        if not self.trackers and not appearing:
            raise nothing_to_follow(mask)
        corrected = {i for i in given if i in self.trackers} if correct else set()
        if mask is not None:
            warn_of_unused(given, self.trackers, correct)
        pasted = self._track(frame, mask, corrected)
        for object_id in appearing:
            assert mask is not None
            pasted.append(self._start(frame, object_id, mask == object_id))
        with self.clock.stage("paste_merge"):
            return self._merge(pasted, frame.shape[:2])

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, correct: bool = False) -> Computed:
        """As `step`; the label map is computed at once, where a device would go on by itself."""
        return Computed(self.step(frame, mask, correct))

    def probabilities(self) -> dict[int, NDArray[np.float32]]:
        """Copies of the last frame's maps (H, W)."""
        if self._probabilities is None:
            return {}
        return {i: p.copy() for i, p in zip(self.trackers, self._probabilities, strict=True)}

    def sight(self) -> Sight | None:
        """What the next windows follow from; the map is not copied."""
        if self._probabilities is None:
            return None
        targets = {i: dataclasses.replace(tracker.state) for i, tracker in self.trackers.items()}
        return Sight(self._probabilities, targets, self._region)

    def align(self, sight: Sight) -> None:
        """Take over probabilities and target states; memories stay their own."""
        if self._probabilities is None:
            return
        self._probabilities[:] = sight.probabilities
        self._region = sight.region
        for object_id, tracker in self.trackers.items():
            tracker.state = dataclasses.replace(sight.targets[object_id])

    def _track(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None, corrected: set[int]) -> list[PastedScores]:
        if self._probabilities is None:
            return []
        pasted = []
        for (object_id, tracker), probability in zip(self.trackers.items(), self._probabilities, strict=True):
            if object_id in corrected:
                assert mask is not None
                pasted.append(tracker.correct(frame, mask == object_id))
            else:
                pasted.append(tracker.track(frame, probability, self._region))
        return pasted

    def _start(self, frame: NDArray[np.uint8], object_id: int, mask: NDArray[np.bool_]) -> PastedScores:
        tracker = ObjectTracker(self.network.new_target(), self.geometry, self.settings, self.clock)
        self.trackers[object_id] = tracker
        return tracker.start(frame, mask)

    def _merge(self, pasted: list[PastedScores], size: tuple[int, ...]) -> NDArray[np.uint8]:
        """Soft aggregation where any object's scores lie; elsewhere the objects' merged probability is zero in fp32."""
        regions = [p.region for p in pasted if p.scores.size]
        rows, columns = (
            slice(min((r[axis].start for r in regions), default=0), max((r[axis].stop for r in regions), default=0))
            for axis in (0, 1)
        )
        scores = np.full((len(pasted), rows.stop - rows.start, columns.stop - columns.start), OUTSIDE, np.float32)
        for canvas, p in zip(scores, pasted, strict=True):
            if p.scores.size:
                own_rows, own_columns = p.region
                canvas[
                    own_rows.start - rows.start : own_rows.stop - rows.start,
                    own_columns.start - columns.start : own_columns.stop - columns.start,
                ] = p.scores
        merged = soft_aggregation(scores)
        if self._probabilities is None or len(self._probabilities) != len(pasted):
            self._probabilities = np.zeros((len(pasted), *size), np.float32)
        else:
            self._probabilities[(slice(None), *self._region)] = 0
        self._region = (rows, columns)
        self._probabilities[:, rows, columns] = merged[1:]
        labels = np.zeros(size, np.uint8)
        ids = np.array((0, *self.trackers), np.uint8)
        labels[rows, columns] = ids[strongest(merged)]
        return labels

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays: a segmenter that loads it goes on exactly alike."""
        if self._probabilities is None:
            return {"ids": np.zeros(0, np.int64)}
        state: dict[str, NDArray[Any]] = {
            "ids": np.array(self.object_ids),
            "probabilities": self._probabilities.copy(),
            "region": np.array([[s.start, s.stop] for s in self._region]),
        }
        for object_id, tracker in self.trackers.items():
            state.update({f"object{object_id}.{name}": array for name, array in tracker.state_dict().items()})
        return state

    def load_state_dict(self, state: State) -> None:
        """The reverse of `state_dict`; bundle and settings must be the same."""
        self.reset()
        if not len(state["ids"]):
            return
        self._probabilities = state["probabilities"].copy()
        rows, columns = state["region"].tolist()
        self._region = (slice(*rows), slice(*columns))
        for object_id in state["ids"].tolist():
            prefix = f"object{object_id}."
            tracker = ObjectTracker(self.network.new_target(), self.geometry, self.settings, self.clock)
            tracker.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
            self.trackers[object_id] = tracker
