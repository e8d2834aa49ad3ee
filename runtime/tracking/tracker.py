"""Following one object: where its crop is cut, when it enters the memory, where its scores go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..manifest import Geometry
from ..settings import Settings
from .crop import Window, cut_image, cut_mask, paste_scores, place_window, vector
from .network import Target
from .sample_weights import SampleWeights
from .target_state import TargetState


@dataclass(frozen=True, slots=True)
class PastedScores:
    """A crop's scores in the frame: (h, w) and the (rows, columns) they cover; `crop.OUTSIDE` elsewhere."""

    scores: NDArray[np.float32]
    region: tuple[slice, slice]


class ObjectTracker:
    """One object from the frame in which its mask is given on.

    Attributes:
        state: where the object was in the last frame.
        window: the rectangle that the last frame was cropped to.
        frame_count: n, frames seen; the given one is the first.
    """

    def __init__(self, target: Target, geometry: Geometry, settings: Settings, clock: StageClock) -> None:
        self.target = target
        self.geometry = geometry
        self.settings = settings
        self.clock = clock
        self.weights = SampleWeights(settings.memory)
        self.frame_count = 0
        self.state: TargetState
        self.window: Window

    def start(self, frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
        """The first frame: (H, W, 3) and the object's mask (H, W), with at least one pixel."""
        self.frame_count = 1
        crop_size = self.geometry.crop_size
        self.state = TargetState.from_mask(mask, crop_size, self.geometry.search_factor)
        with self.clock.stage("crop"):
            window, rows, columns = self._first_window(mask.shape)
            double = (2 * crop_size[0], 2 * crop_size[1])
            crop = cut_image(frame, window, double)[rows][:, columns]
            label = cut_mask(mask.astype(np.float32), window, double)[rows][:, columns]
        self.target.extract(crop)
        self.target.start(label)

    def _first_window(self, image_size: tuple[int, ...]) -> tuple[Window, NDArray[np.int64], NDArray[np.int64]]:
        """The first sample is cut twice as large, and its centre taken, moved towards the frame's inside.

        Returns:
            The large window, and the rows and columns of the resized cut that make the crop.
        """
        size, crop_size = vector(image_size), vector(self.geometry.crop_size)
        pos = self.state.pos
        sample = self.state.target_scale * crop_size
        sample = sample / max(np.float32((sample / size).min()), np.float32(1))
        scale = np.sqrt(np.prod(sample / crop_size))
        start = pos - (sample - np.float32(1)) / np.float32(2)
        stop = pos + sample / np.float32(2) + np.float32(1)
        inward = -(np.maximum(-start, 0) - np.maximum(stop - size, 0)) / scale
        shift = np.trunc(inward).astype(np.int64)
        height, width = self.geometry.crop_size
        double = (2 * height, 2 * width)
        window = place_window(
            (image_size[0], image_size[1]), np.rint(pos), scale * vector(double), double, keep_inside=False
        )
        rows = np.clip(np.arange(height) + height // 2 - shift[0], 0, double[0] - 1)
        columns = np.clip(np.arange(width) + width // 2 - shift[1], 0, double[1] - 1)
        return window, rows, columns

    def track(
        self, frame: NDArray[np.uint8], probability: NDArray[np.float32], region: tuple[slice, slice]
    ) -> PastedScores:
        """A further frame.

        Args:
            frame: (H, W, 3).
            probability: the object's merged probability in the previous frame, (H, W).
            region: rows and columns outside of which it is zero.
        """
        self.frame_count += 1
        image_size = probability.shape
        crop_size = self.geometry.crop_size
        if self.frame_count > 2 and self.frame_count % self.settings.interval == 0 and self.settings.memory > 1:
            with self.clock.stage("crop"):
                label = cut_mask(probability, self.window, crop_size)
            slot = self.weights.insert()
            self.target.store(slot, label, self.weights.current)
        with self.clock.stage("crop"):
            self.state.update(probability[region], (region[0].start, region[1].start))
            self.window = self._search_window((image_size[0], image_size[1]))
            crop = cut_image(frame, self.window, crop_size)
        self.target.extract(crop)
        logits = self.target.segment()
        with self.clock.stage("paste_merge"):
            top, left, bottom, right = self.window.coordinates
            sample_pos = np.float32(0.5) * vector((top + bottom - 1, left + right - 1))
            sample_scale = np.sqrt(np.prod(vector((bottom - top, right - left)) / vector(crop_size)))
            pasted, place = paste_scores(
                logits, sample_pos, sample_scale, (image_size[0], image_size[1]), self.settings.score_resize
            )
            return PastedScores(pasted, place)

    def _search_window(self, image_size: tuple[int, int]) -> Window:
        """The window about the target, half a feature cell off where filter and feature map do not centre alike."""
        geometry = self.geometry
        cells = np.asarray(geometry.crop_size) // geometry.stride
        offset = ((cells + geometry.filter_size) % 2).astype(np.float32) * np.float32(geometry.stride / 2)
        centre = self.state.pos + offset * self.state.target_scale
        sample = self.state.target_scale * vector(geometry.crop_size)
        return place_window(image_size, centre, sample, geometry.crop_size, keep_inside=True)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays."""
        window = self.window if self.frame_count > 1 else Window(0, 0, 0, 0, 1, (0, 0))
        own: dict[str, Any] = {
            "frame_count": self.frame_count,
            "pos": self.state.pos,
            "target_scale": self.state.target_scale,
            "base_target_size": self.state.base_target_size,
            "weights": self.weights.values,
            "stored": self.weights.stored,
            "previous": -1 if self.weights.previous is None else self.weights.previous,
            "window": (window.top, window.left, window.bottom, window.right, window.stride, *window.offset),
        }
        arrays = {name: np.array(value) for name, value in own.items()}
        return {**arrays, **{f"target.{name}": array for name, array in self.target.state_dict().items()}}

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        self.frame_count = int(state["frame_count"])
        self.state = TargetState(state["pos"], np.float32(state["target_scale"]), state["base_target_size"])
        self.weights.values[:] = state["weights"]
        self.weights.stored = int(state["stored"])
        self.weights.previous = None if state["previous"] < 0 else int(state["previous"])
        top, left, bottom, right, stride, row, column = (int(v) for v in state["window"])
        self.window = Window(top, left, bottom, right, stride, (row, column))
        prefix = "target."
        self.target.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
