"""The public interface: frames in, label maps out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import SettingsError
from .bundle import Bundle
from .clock import StageClock
from .cpu_backends import choose_cpu_backend, load_cpu_network
from .device_backends import load_device_segmenter, runs_on_device
from .manifest import Geometry
from .settings import Settings
from .tracking.aggregation import soft_aggregation, strongest
from .tracking.crop import OUTSIDE
from .tracking.frame_checks import check_frame, new_ids, nothing_to_follow
from .tracking.network import Network
from .tracking.tracker import ObjectTracker, PastedScores

GIVEN = 100.0
"""Score of a pixel inside a given mask; its negative outside."""


@dataclasses.dataclass(frozen=True, slots=True)
class Computed:
    """A label map that is there."""

    labels: NDArray[np.uint8]

    def result(self) -> NDArray[np.uint8]:
        """(H, W)."""
        return self.labels


class Segmenter:
    """Follows any number of objects through one video; memory and time per frame do not grow with its length.

    Example:
        >>> segmenter = Segmenter.load("lite")                   # doctest: +SKIP
        >>> labels = segmenter.step(frame, mask=first_labels)    # doctest: +SKIP
        >>> labels = segmenter.step(frame)                       # doctest: +SKIP

    Attributes:
        settings: how the bundle is used.
        clock: durations of the stages, once `clock.enabled` is set.
        runs_on: what runs the engines.
    """

    runs_on = "ONNX Runtime on the CPU"

    def __init__(self, network: Network, geometry: Geometry, settings: Settings, clock: StageClock) -> None:
        self.network = network
        self.geometry = geometry
        self.settings = settings
        self.clock = clock
        self.reset()

    @classmethod
    def load(
        cls,
        bundle: str | Path = "lite",
        *,
        memory: int | None = None,
        interval: int | None = None,
        branches: str = "both",
        threads: int | None = None,
        score_resize: str = "given",
        device: str = "cpu",
        backend: str = "auto",
        precision: str | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: the name of an installed bundle, or a bundle's folder.
            memory: N, frames kept per object; the bundle's default if None.
            interval: T, frames between memory updates; the bundle's default if None.
            branches: "both", "transduction" or "induction" (Table 1).
            threads: cores to use; all that the process may use if None.
            score_resize: "given" or "ratio"; see `crop.paste_scores`.
            device: "cpu", "cuda", "cuda:1", ...
            backend: what runs the engines: "auto"; on the CPU "onnxruntime" or "openvino" (see `cpu_backends`), on a
                GPU "tensorrt", "torch" or "onnxruntime" (see `device_backends`). "openvino:bf16" as with `precision`.
            precision: "fp16" or "fp32" of the torch backend, "fp32" or "bf16" of OpenVINO.

        Returns:
            A segmenter; on a GPU a `device_segmenter.DeviceSegmenter`, which has the same verbs.

        Raises:
            BundleError: the bundle is missing or not whole.
            DependencyError: a library is not installed.
            DeviceError: the device cannot be used, or the backend cannot run the bundle.
            SettingsError: a setting is out of its range.
        """
        opened = Bundle.open(bundle)
        options: dict[str, Any] = {
            "memory": memory,
            "interval": interval,
            "branches": branches,
            "threads": threads,
            "score_resize": score_resize,
        }
        if runs_on_device(opened, backend, device):
            return load_device_segmenter(  # type: ignore[return-value]
                opened, device=device, backend=backend, precision=precision, **options
            )
        settings, clock = Settings.resolve(opened.manifest.defaults, **options), StageClock()
        chosen = choose_cpu_backend(opened, backend, precision)
        network = load_cpu_network(opened, settings, clock, chosen)
        segmenter = cls(network, opened.manifest.geometry, settings, clock)
        segmenter.runs_on = chosen.runs_on
        return segmenter

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are followed, in the order in which they appeared."""
        return tuple(self._trackers)

    def reset(self) -> None:
        """Forget all objects; the next frame may have any size."""
        self._trackers: dict[int, ObjectTracker] = {}
        self._probabilities: NDArray[np.float32] | None = None
        self._region: tuple[slice, slice] = (slice(0, 0), slice(0, 0))

    def set_interval(self, interval: int) -> None:
        """Let T be `interval` from the next frame on, for all objects.

        Raises:
            SettingsError: it is less than 1.
        """
        if interval < 1:
            raise SettingsError(f"interval is {interval}: expected 1 or more")
        self.settings = dataclasses.replace(self.settings, interval=interval)
        for tracker in self._trackers.values():
            tracker.settings = self.settings

    def step(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> NDArray[np.uint8]:
        """Segment the next frame.

        Args:
            frame: (H, W, 3) uint8, RGB; all frames have one size.
            mask: (H, W) label map, 0 for the background; ids that are new here are followed from this frame on, ids
                already followed are ignored.

        Returns:
            Label map (H, W), uint8: 0 and the objects' ids.

        Raises:
            MaskError: no object is known yet, or the mask has another size, another type or ids beyond 255.
        """
        known = self._probabilities
        frame = check_frame(frame, None if known is None else (known.shape[1], known.shape[2]))
        appearing = new_ids(mask, frame.shape[:2], self._trackers)
        if not self._trackers and not appearing:
            raise nothing_to_follow(mask)
        pasted = self._track(frame)
        for object_id in appearing:
            assert mask is not None
            pasted.append(self._start(frame, object_id, mask == object_id))
        with self.clock.stage("paste_merge"):
            return self._merge(pasted, frame.shape[:2])

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> Computed:
        """As `step`; the label map is computed at once, where a device would go on by itself."""
        return Computed(self.step(frame, mask))

    def probabilities(self) -> dict[int, NDArray[np.float32]]:
        """Merged probability maps (H, W) of the objects in the last frame, by id."""
        if self._probabilities is None:
            return {}
        return {i: p.copy() for i, p in zip(self._trackers, self._probabilities, strict=True)}

    def align(self, other: Segmenter) -> None:
        """Take over another segmenter's probabilities and target states, so that the next frame is cut alike.

        Windows are cut at whole pixels: a difference in a scale's last bit may move one. What the two networks make of
        the same crops can only be compared without that. Both must follow the same objects; memories stay their own.
        """
        if self._probabilities is None or other._probabilities is None:
            return
        self._probabilities[:] = other._probabilities
        self._region = other._region
        for object_id, tracker in self._trackers.items():
            tracker.state = dataclasses.replace(other._trackers[object_id].state)

    def _track(self, frame: NDArray[np.uint8]) -> list[PastedScores]:
        if self._probabilities is None:
            return []
        return [
            tracker.track(frame, probability, self._region)
            for tracker, probability in zip(self._trackers.values(), self._probabilities, strict=True)
        ]

    def _start(self, frame: NDArray[np.uint8], object_id: int, mask: NDArray[np.bool_]) -> PastedScores:
        tracker = ObjectTracker(self.network.new_target(), self.geometry, self.settings, self.clock)
        tracker.start(frame, mask)
        self._trackers[object_id] = tracker
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        region = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        return PastedScores(np.where(mask[region], np.float32(GIVEN), np.float32(-GIVEN)), region)

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
        ids = np.array((0, *self._trackers), np.uint8)
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
        for object_id, tracker in self._trackers.items():
            state.update({f"object{object_id}.{name}": array for name, array in tracker.state_dict().items()})
        return state

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
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
            self._trackers[object_id] = tracker
