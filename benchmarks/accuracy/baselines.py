"""Two ways to follow objects without any network, as the floor that a network must clear."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray


class Follower(Protocol):
    """What `Segmenter` and the baselines have in common."""

    def step(self, frame: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Label map (H, W) of the next frame (H, W, 3), RGB; the first one comes with a mask, later ones may."""

    def reset(self) -> None:
        """Forget all objects."""


class FirstMask:
    """Objects stay where they were given."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """See `Follower.reset`."""
        self._labels: NDArray[np.uint8] | None = None

    def step(self, frame: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """See `Follower.step`."""
        self._labels = _added(self._labels, mask)
        return self._labels.copy()


class FlowWarp:
    """Objects are carried along by dense optical flow.

    The flow leads from a frame back to the one before it (DIS, Kroeger et al., ECCV 2016, OpenCV's preset MEDIUM); each
    pixel takes the label that it finds there, at the nearest pixel, and background from outside the image.
    """

    def __init__(self) -> None:
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.reset()

    def reset(self) -> None:
        """See `Follower.reset`."""
        self._labels: NDArray[np.uint8] | None = None
        self._grey: NDArray[np.uint8] | None = None

    def step(self, frame: NDArray[np.uint8], mask: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """See `Follower.step`."""
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.uint8)
        if self._labels is not None and self._grey is not None:
            self._labels = self._carried(grey, self._grey, self._labels)
        self._grey, self._labels = grey, _added(self._labels, mask)
        return self._labels.copy()

    def _carried(
        self, grey: NDArray[np.uint8], before: NDArray[np.uint8], labels: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        flow = self._flow.calc(grey, before, None)  # type: ignore[call-overload]
        rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
        x, y = columns + flow[..., 0], rows + flow[..., 1]
        warped = cv2.remap(labels, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
        return np.asarray(warped, np.uint8)


BASELINES: dict[str, Callable[[], Follower]] = {"first-mask": FirstMask, "flow": FlowWarp}


def _added(labels: NDArray[np.uint8] | None, mask: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Labels with the objects of a mask laid over them."""
    if labels is None:
        if mask is None:
            raise ValueError("the first frame comes without a mask")
        return mask.copy()
    return labels if mask is None else np.where(mask > 0, mask, labels)
