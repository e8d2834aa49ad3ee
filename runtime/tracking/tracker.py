"""Following one object: where its crop is cut, when it enters the memory, where its scores go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..manifest import Geometry
from ..settings import INITIAL_STEPS, UPDATE_STEPS, Settings, Share
from .aggregation import PastedScores
from .crop import Window, cut_image, cut_mask, paste_scores, place_window, vector, whole_window
from .network import Sample
from .sample_weights import SampleWeights
from .target_state import TargetState


@dataclass(frozen=True, slots=True)
class Cut:
    """How a crop is cut out of a frame; objects whose cuts are equal see the same crop.

    Attributes:
        window: the rectangle.
        shift: of a first sample, which is the centre of a cut twice as large, how far the centre is moved (rows,
            columns); None otherwise.
    """

    window: Window
    shift: tuple[int, int] | None = None

    def image(self, frame: NDArray[np.uint8], crop_size: tuple[int, int]) -> NDArray[np.float32]:
        """Crop (h, w, 3) of a frame (H, W, 3)."""
        if self.shift is None:
            return cut_image(frame, self.window, crop_size)
        rows, columns = self._centre(crop_size)
        return cut_image(frame, self.window, _doubled(crop_size))[rows][:, columns]

    def mask(self, mask: NDArray[np.float32], crop_size: tuple[int, int]) -> NDArray[np.float32]:
        """Crop (h, w) of a mask (H, W)."""
        if self.shift is None:
            return cut_mask(mask, self.window, crop_size)
        rows, columns = self._centre(crop_size)
        return cut_mask(mask, self.window, _doubled(crop_size))[rows][:, columns]

    def _centre(self, crop_size: tuple[int, int]) -> list[NDArray[np.int64]]:
        assert self.shift is not None
        return [
            np.clip(np.arange(n) + n // 2 - shift, 0, 2 * n - 1) for n, shift in zip(crop_size, self.shift, strict=True)
        ]


class ObjectTracker:
    """One object from the frame in which its mask is given on.

    Args:
        target: its side of the network.
        geometry: of the network's crops.
        settings: how the bundle is used.

    Attributes:
        state: where the object was in the last frame.
        window: the rectangle that the last frame was cropped to.
        frame_count: n, frames seen; the given one is the first.
        given_at: n of the last frame whose mask was given.
    """

    def __init__(self, target: Any, geometry: Geometry, settings: Settings) -> None:
        self.target = target
        self.geometry = geometry
        self.settings = settings
        self.weights = SampleWeights(settings.memory)
        self.frame_count = 0
        self.given_at = 1
        self.state: TargetState
        self.window: Window

    def give(self, mask: NDArray[np.bool_]) -> tuple[Cut, Sample[Any]]:
        """A frame whose mask (H, W), of at least one pixel, is given: its cut, and the sample that stays.

        The object's first frame, or a correction, from which scale and position start again. What the frame before a
        correction would have brought into the memory is left out: it is what had to be corrected.
        """
        self.frame_count += 1
        self.given_at = self.frame_count
        self.state, cut = given_sample(mask, self.geometry, self.settings.share)
        slot = 0 if self.frame_count == 1 else self.weights.insert_given()
        label = cut.mask(mask.astype(np.float32), self.geometry.crop_size)
        return cut, Sample(self.target, slot, label, self.weights.current, INITIAL_STEPS)

    def begin(self, probability: NDArray[np.float32]) -> Sample[Any] | None:
        """A further frame begins; what the last one, with the object's probability (H, W), brings into the memory."""
        self.frame_count += 1
        if not update_due(self.frame_count, self.given_at, self.settings):
            return None
        label = cut_mask(probability, self.window, self.geometry.crop_size)
        return Sample(self.target, self.weights.insert(), label, self.weights.current, UPDATE_STEPS)

    def look(self, probability: NDArray[np.float32], region: tuple[slice, slice]) -> Cut:
        """Where the frame is cut.

        Args:
            probability: the object's merged probability in the previous frame, (H, W).
            region: rows and columns outside of which it is zero.
        """
        size = (probability.shape[0], probability.shape[1])
        if self.settings.share == "frame":
            self.window = whole_window(size, self.geometry.crop_size)
        else:
            self.state.update(probability[region], (region[0].start, region[1].start), self.settings.min_area)
            self.window = self.search_window(size)
        return Cut(self.window)

    def paste(self, logits: NDArray[np.float32], image_size: tuple[int, int]) -> PastedScores:
        """Logits of the crop in their place in the frame."""
        top, left, bottom, right = self.window.coordinates
        sample_pos = np.float32(0.5) * vector((top + bottom - 1, left + right - 1))
        sample_scale = np.sqrt(np.prod(vector((bottom - top, right - left)) / vector(self.geometry.crop_size)))
        return PastedScores(*paste_scores(logits, sample_pos, sample_scale, image_size, self.settings.score_resize))

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
        """Everything that the next frame depends on but the target, as arrays."""
        window = self.window if self.frame_count > 1 else Window(0, 0, 0, 0, 1, (0, 0))
        own: dict[str, Any] = {
            "frame_count": self.frame_count,
            "given_at": self.given_at,
            "pos": self.state.pos,
            "target_scale": self.state.target_scale,
            "base_target_size": self.state.base_target_size,
            **self.weights.state_dict(),
            "window": window.values,
        }
        return {name: np.array(value) for name, value in own.items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        self.frame_count = int(state["frame_count"])
        pos, base_size = state["pos"].copy(), state["base_target_size"].copy()
        self.state = TargetState(pos, np.float32(state["target_scale"]), base_size)
        self.given_at = int(state["given_at"])
        self.weights.load_state_dict(state)
        top, left, bottom, right, stride, row, column = (int(v) for v in state["window"])
        self.window = Window(top, left, bottom, right, stride, (row, column))


def update_due(frame_count: int, given_at: int, settings: Settings) -> bool:
    """Whether a frame begins with a memory update (section 3.5); it depends on no pixel.

    Args:
        frame_count: n of the frame, counted from the object's first as 1.
        given_at: n of the last frame whose mask was given: the frame after it has nothing new to bring.
        settings: T and N; a memory of one frame is that of the first.
    """
    return frame_count > given_at + 1 and frame_count % settings.interval == 0 and settings.memory > 1


def given_sample(mask: NDArray[np.bool_], geometry: Geometry, share: Share) -> tuple[TargetState, Cut]:
    """What a mask (H, W) that is given, with at least one pixel, says: the target's state, and how its sample is cut.

    Args:
        mask: (H, W).
        geometry: size of the crop, and how much larger than the target.
        share: "frame" for the whole frame.
    """
    state = TargetState.from_mask(mask, geometry.crop_size, geometry.search_factor)
    size = (mask.shape[0], mask.shape[1])
    if share == "frame":
        return state, Cut(whole_window(size, geometry.crop_size))
    return state, _given_cut(state, size, geometry.crop_size)


def _given_cut(state: TargetState, image_size: tuple[int, int], crop: tuple[int, int]) -> Cut:
    """The first sample is cut twice as large, and its centre taken, moved towards the frame's inside."""
    size, crop_size = vector(image_size), vector(crop)
    pos = state.pos
    sample = state.target_scale * crop_size
    sample = sample / max(np.float32((sample / size).min()), np.float32(1))
    scale = np.sqrt(np.prod(sample / crop_size))
    start = pos - (sample - np.float32(1)) / np.float32(2)
    stop = pos + sample / np.float32(2) + np.float32(1)
    inward = -(np.maximum(-start, 0) - np.maximum(stop - size, 0)) / scale
    shift = np.trunc(inward).astype(np.int64)
    double = _doubled(crop)
    window = place_window(image_size, np.rint(pos), scale * vector(double), double, keep_inside=False)
    return Cut(window, (int(shift[0]), int(shift[1])))


def _doubled(crop: tuple[int, int]) -> tuple[int, int]:
    return 2 * crop[0], 2 * crop[1]
