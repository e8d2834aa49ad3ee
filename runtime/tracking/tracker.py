"""Following one object: where its crop is cut, when it enters the memory, where its scores go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..manifest import Geometry
from ..settings import INITIAL_STEPS, UPDATE_STEPS, Settings
from .crop import Window, cut_image, cut_mask, paste_scores, place_window, vector
from .network import Target
from .sample_weights import SampleWeights
from .target_state import TargetState

GIVEN = 100.0
"""Score of a pixel inside a given mask; its negative outside (section 3.5, as the released tracker has it)."""


@dataclass(frozen=True, slots=True)
class PastedScores:
    """A crop's scores in the frame: (h, w) and the (rows, columns) they cover; `crop.OUTSIDE` elsewhere."""

    scores: NDArray[np.float32]
    region: tuple[slice, slice]

    @classmethod
    def given(cls, mask: NDArray[np.bool_]) -> Self:
        """Of a mask (H, W) with at least one pixel that a person gave."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        region = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        return cls(np.where(mask[region], np.float32(GIVEN), np.float32(-GIVEN)), region)


class ObjectTracker:
    """One object from the frame in which its mask is given on.

    Attributes:
        state: where the object was in the last frame.
        window: the rectangle that the last frame was cropped to.
        frame_count: n, frames seen; the given one is the first.
        given_at: n of the last frame whose mask was given.
    """

    def __init__(self, target: Target, geometry: Geometry, settings: Settings, clock: StageClock) -> None:
        self.target = target
        self.geometry = geometry
        self.settings = settings
        self.clock = clock
        self.weights = SampleWeights(settings.memory)
        self.frame_count = 0
        self.given_at = 1
        self.state: TargetState
        self.window: Window

    def start(self, frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> PastedScores:
        """The first frame: (H, W, 3) and the object's mask (H, W), with at least one pixel."""
        self.frame_count = 1
        self.target.start(self._take_given(frame, mask))
        return PastedScores.given(mask)

    def correct(self, frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> PastedScores:
        """A further frame whose mask is given: a sample that stays, from which scale and position start again.

        What the frame before would have brought into the memory is left out: it is what had to be corrected.
        """
        self.frame_count += 1
        self.given_at = self.frame_count
        label = self._take_given(frame, mask)
        slot = self.weights.insert_given()
        self.target.store(slot, label, self.weights.current, INITIAL_STEPS)
        return PastedScores.given(mask)

    def _take_given(self, frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        """State, features and mask crop of a frame whose mask is given."""
        with self.clock.stage("crop"):
            state, crop, label = given_sample(frame, mask, self.geometry)
        self.state = state
        self.target.extract(crop)
        return label

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
        if update_due(self.frame_count, self.given_at, self.settings):
            with self.clock.stage("crop"):
                label = cut_mask(probability, self.window, crop_size)
            slot = self.weights.insert()
            self.target.store(slot, label, self.weights.current, UPDATE_STEPS)
        with self.clock.stage("crop"):
            self.state.update(probability[region], (region[0].start, region[1].start), self.settings.min_area)
            self.window = self.search_window((image_size[0], image_size[1]))
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

    def search_window(self, image_size: tuple[int, int]) -> Window:
        """The window about the target, half a feature cell off where filter and feature map do not centre alike."""
        geometry = self.geometry
        cells = np.asarray(geometry.crop_size) // geometry.stride
        offset = ((cells + geometry.filter_size) % 2).astype(np.float32) * np.float32(geometry.stride / 2)
        centre = self.state.pos + offset * self.state.target_scale
        sample = self.state.target_scale * vector(geometry.crop_size)
        steady = self.settings.windows == "steady"
        return place_window(image_size, centre, sample, geometry.crop_size, keep_inside=True, steady=steady)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays."""
        window = self.window if self.frame_count > 1 else Window(0, 0, 0, 0, 1, (0, 0))
        own: dict[str, Any] = {
            "frame_count": self.frame_count,
            "given_at": self.given_at,
            "pos": self.state.pos,
            "target_scale": self.state.target_scale,
            "base_target_size": self.state.base_target_size,
            **self.weights.state_dict(),
            "window": (window.top, window.left, window.bottom, window.right, window.stride, *window.offset),
        }
        arrays = {name: np.array(value) for name, value in own.items()}
        return {**arrays, **{f"target.{name}": array for name, array in self.target.state_dict().items()}}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        self.frame_count = int(state["frame_count"])
        pos, base_size = state["pos"].copy(), state["base_target_size"].copy()
        self.state = TargetState(pos, np.float32(state["target_scale"]), base_size)
        self.given_at = int(state["given_at"])
        self.weights.load_state_dict(state)
        top, left, bottom, right, stride, row, column = (int(v) for v in state["window"])
        self.window = Window(top, left, bottom, right, stride, (row, column))
        prefix = "target."
        self.target.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def update_due(frame_count: int, given_at: int, settings: Settings) -> bool:
    """Whether a frame begins with a memory update (section 3.5); it depends on no pixel.

    Args:
        frame_count: n of the frame, counted from the object's first as 1.
        given_at: n of the last frame whose mask was given: the frame after it has nothing new to bring.
        settings: T and N; a memory of one frame is that of the first.
    """
    return frame_count > given_at + 1 and frame_count % settings.interval == 0 and settings.memory > 1


def given_sample(
    frame: NDArray[np.uint8], mask: NDArray[np.bool_], geometry: Geometry
) -> tuple[TargetState, NDArray[np.float32], NDArray[np.float32]]:
    """What a frame whose mask is given brings: the target's state, its crop (h, w, 3) and its mask crop (h, w).

    Args:
        frame: (H, W, 3).
        mask: (H, W), with at least one pixel.
        geometry: size of the crop, and how much larger than the target.
    """
    state = TargetState.from_mask(mask, geometry.crop_size, geometry.search_factor)
    height, width = geometry.crop_size
    double = (2 * height, 2 * width)
    window, rows, columns = _given_window(state, mask.shape, geometry.crop_size)
    crop = cut_image(frame, window, double)[rows][:, columns]
    label = cut_mask(mask.astype(np.float32), window, double)[rows][:, columns]
    return state, crop, label


def _given_window(
    state: TargetState, image_size: tuple[int, ...], crop: tuple[int, int]
) -> tuple[Window, NDArray[np.int64], NDArray[np.int64]]:
    """The first sample is cut twice as large, and its centre taken, moved towards the frame's inside.

    Returns:
        The large window, and the rows and columns of the resized cut that make the crop.
    """
    size, crop_size = vector(image_size), vector(crop)
    pos = state.pos
    sample = state.target_scale * crop_size
    sample = sample / max(np.float32((sample / size).min()), np.float32(1))
    scale = np.sqrt(np.prod(sample / crop_size))
    start = pos - (sample - np.float32(1)) / np.float32(2)
    stop = pos + sample / np.float32(2) + np.float32(1)
    inward = -(np.maximum(-start, 0) - np.maximum(stop - size, 0)) / scale
    shift = np.trunc(inward).astype(np.int64)
    height, width = crop
    double = (2 * height, 2 * width)
    window = place_window(
        (image_size[0], image_size[1]), np.rint(pos), scale * vector(double), double, keep_inside=False
    )
    rows = np.clip(np.arange(height) + height // 2 - shift[0], 0, double[0] - 1)
    columns = np.clip(np.arange(width) + width // 2 - shift[1], 0, double[1] - 1)
    return window, rows, columns
