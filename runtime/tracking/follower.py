"""Objects followed on the host: one tracker each, and the merge of their scores (section 3.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..manifest import Geometry
from ..settings import Settings
from .aggregation import PastedScores, Region, merge
from .frame_checks import check_frame, ids_in, nothing_to_follow, warn_of_unused
from .network import Network
from .protocol import Computed, Sight, State
from .tracker import Cut, ObjectTracker


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

    def __init__(self, network: Network[Any], geometry: Geometry, settings: Settings, clock: StageClock) -> None:
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
        due = [i for i in self.trackers if i not in corrected]
        pasted = self._track(frame, due)
        for object_id in appearing:
            self.trackers[object_id] = ObjectTracker(self.network.new_target(), self.geometry, self.settings)
        if corrected or appearing:
            assert mask is not None
            pasted |= self._give(frame, {i: mask == i for i in (*corrected, *appearing)})
        with self.clock.stage("paste_merge"):
            return self._merge([pasted[i] for i in self.trackers], frame.shape[:2])

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

    def _track(self, frame: NDArray[np.uint8], ids: list[int]) -> dict[int, PastedScores]:
        """Objects in a further frame: what the last one brings into memories first, then windows, then scores."""
        if self._probabilities is None:
            return {}
        size = (frame.shape[0], frame.shape[1])
        maps = {i: p for i, p in zip(self.trackers, self._probabilities, strict=True) if i in ids}
        with self.clock.stage("crop"):
            samples = [self.trackers[i].begin(probability) for i, probability in maps.items()]
        self.network.store([sample for sample in samples if sample is not None])
        with self.clock.stage("crop"):
            cuts = {i: self.trackers[i].look(probability, self._region) for i, probability in maps.items()}
        pasted = {}
        for together in self._extract(frame, cuts):
            targets = [self.trackers[i].target for i in together]
            for object_id, logits in zip(together, self.network.segment(targets), strict=True):
                with self.clock.stage("paste_merge"):
                    pasted[object_id] = self.trackers[object_id].paste(logits, size)
        return pasted

    def _give(self, frame: NDArray[np.uint8], masks: dict[int, NDArray[np.bool_]]) -> dict[int, PastedScores]:
        """Objects whose masks (H, W) are given, new or corrected."""
        with self.clock.stage("crop"):
            given = {i: self.trackers[i].give(mask) for i, mask in masks.items()}
        for _ in self._extract(frame, {i: cut for i, (cut, _) in given.items()}):
            pass
        self.network.store([sample for _, sample in given.values()])
        return {i: PastedScores.given(mask) for i, mask in masks.items()}

    def _extract(self, frame: NDArray[np.uint8], cuts: dict[int, Cut]) -> Iterator[list[int]]:
        """Crop by crop, the objects that see it, their features extracted."""
        together: dict[Cut, list[int]] = {}
        for object_id, cut in cuts.items():
            together.setdefault(cut, []).append(object_id)
        for cut, ids in together.items():
            with self.clock.stage("crop"):
                crop = cut.image(frame, self.geometry.crop_size)
            self.network.extract([self.trackers[i].target for i in ids], crop)
            yield ids

    def _merge(self, pasted: list[PastedScores], size: tuple[int, ...]) -> NDArray[np.uint8]:
        if self._probabilities is None or len(self._probabilities) != len(pasted):
            self._probabilities = np.zeros((len(pasted), *size), np.float32)
        before, labels = self._region, np.zeros(size, np.uint8)
        self._region = merge(pasted, np.array((0, *self.trackers), np.uint8), self._probabilities, labels)
        if any(old.start < new.start or old.stop > new.stop for old, new in zip(before, self._region, strict=True)):
            _clear_outside(self._probabilities, before, self._region)
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
        targets = self.network.state_dicts([tracker.target for tracker in self.trackers.values()])
        for (object_id, tracker), target in zip(self.trackers.items(), targets, strict=True):
            state |= {f"object{object_id}.{name}": array for name, array in tracker.state_dict().items()}
            state |= {f"object{object_id}.target.{name}": array for name, array in target.items()}
        return state

    def load_state_dict(self, state: State) -> None:
        """The reverse of `state_dict`; bundle and settings must be the same."""
        self.reset()
        if not len(state["ids"]):
            return
        self._probabilities = state["probabilities"].copy()
        rows, columns = state["region"].tolist()
        self._region = (slice(*rows), slice(*columns))
        ids = state["ids"].tolist()
        targets = self.network.restore([_under(f"object{i}.target.", state) for i in ids])
        for object_id, target in zip(ids, targets, strict=True):
            tracker = ObjectTracker(target, self.geometry, self.settings)
            tracker.load_state_dict(_under(f"object{object_id}.", state))
            self.trackers[object_id] = tracker


def _clear_outside(maps: NDArray[np.float32], before: Region, region: Region) -> None:
    """Zeros where maps (K, H, W) were written before and not again."""
    (rows, columns), (new_rows, new_columns) = before, region
    for part in (slice(rows.start, new_rows.start), slice(max(new_rows.stop, rows.start), rows.stop)):
        maps[:, part, columns] = 0
    for part in (slice(columns.start, new_columns.start), slice(max(new_columns.stop, columns.start), columns.stop)):
        maps[:, rows, part] = 0


def _under(prefix: str, state: State) -> State:
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}
