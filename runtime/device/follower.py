"""`Segmenter` on a device: one video, or several in one batch. Imports torch; the CPU path never comes here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..settings import Settings
from .frame_queue import DEPTH, Pending
from .network import DeviceNetwork
from .video_batch import VideoBatch


class PendingLabels:
    """A label map that is being computed."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def result(self) -> NDArray[np.uint8]:
        """(H, W); waits for its frame only. May be called from another thread."""
        return self._pending.result()[0]


class DeviceSegmenter:
    """Follows any number of objects through one video on a device; made by `Segmenter.load(..., device="cuda")`.

    The verbs are those of `Segmenter`; `submit` and `stream` queue frames ahead.

    Attributes:
        settings: how the bundle is used.
        runs_on: backend, precision and device, and why.
        clock: durations of whole frames as the host sees them, once `clock.enabled` is set.
    """

    def __init__(self, network: DeviceNetwork, runs_on: str = "") -> None:
        self.network = network
        self.runs_on = runs_on
        self.clock = StageClock()
        self.batch = VideoBatch(network, 1)

    @property
    def settings(self) -> Settings:
        """Settings."""
        return self.network.settings

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are followed, in the order in which they appeared."""
        return tuple(self.batch.ids[0])

    def reset(self) -> None:
        """Forget all objects; the next frame may have any size."""
        self.batch.clear()

    def step(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> NDArray[np.uint8]:
        """Segment the next frame; see `Segmenter.step`."""
        with self.clock.stage("frame"):
            return self.submit(frame, mask).result()

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None) -> PendingLabels:
        """Enqueue the next frame and return at once; waits only where `frame_queue.DEPTH` frames are on their way.

        Raises:
            MaskError: as `Segmenter.step`.
        """
        return PendingLabels(self.batch.submit([frame], [mask]))

    def stream(
        self, frames: Iterable[NDArray[np.uint8]], mask: NDArray[Any] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Label maps of all frames, the host working ahead of the device; `mask` belongs to the first one."""
        waiting: list[PendingLabels] = []
        for frame in frames:
            waiting.append(self.submit(frame, mask))
            mask = None
            if len(waiting) == DEPTH:
                yield waiting.pop(0).result()
        for pending in waiting:
            yield pending.result()

    def probabilities(self) -> dict[int, NDArray[np.float32]]:
        """Merged probability maps (H, W) of the objects in the last frame, by id."""
        if not self.object_ids:
            return {}
        self.network.lane.wait()
        maps: NDArray[np.float32] = self.batch.tensors["probability"].cpu().numpy()
        return {i: p.copy() for i, p in zip(self.object_ids, maps, strict=True)}

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays; to be loaded by the same backend and bundle."""
        return self.batch.state_dict()

    def load_state_dict(self, state: dict[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        self.batch.load_state_dict(state)


class BatchSegmenter:
    """Follows the objects of V videos of one frame size, each with objects and pace of its own, in one batch.

    Example:
        >>> segmenter = BatchSegmenter(load_device_network("lite", device="cuda")[0], videos=2)  # doctest: +SKIP
        >>> a, b = segmenter.step([frame_a, frame_b], [mask_a, mask_b])                           # doctest: +SKIP
        >>> a, b = segmenter.step([frame_a, frame_b])                                             # doctest: +SKIP
    """

    def __init__(self, network: DeviceNetwork, videos: int) -> None:
        self.network = network
        self.batch = VideoBatch(network, videos)

    def object_ids(self, video: int) -> tuple[int, ...]:
        """Ids of the objects that are followed in a video, in the order in which they appeared."""
        return tuple(self.batch.ids[video])

    def step(
        self, frames: Sequence[NDArray[np.uint8] | None], masks: Sequence[NDArray[Any] | None] | None = None
    ) -> list[NDArray[np.uint8] | None]:
        """Segment the next frame of every video.

        Args:
            frames: per video (H, W, 3) uint8; None before its first mask, and after its end until `reset(video)`.
            masks: per video a label map where objects appear, or None.

        Returns:
            Per video its label map (H, W); None where there was no frame.

        Raises:
            MaskError: a video has no object to follow, or a mask does not fit.
            SettingsError: frames differ in size, or there are more or fewer than V.
        """
        labels = self.batch.submit(frames, masks).result()
        return [None if frame is None else own for frame, own in zip(frames, labels, strict=True)]

    def submit(
        self, frames: Sequence[NDArray[np.uint8] | None], masks: Sequence[NDArray[Any] | None] | None = None
    ) -> Pending:
        """As `step`, without waiting: `result()` gives the label maps (V, H, W)."""
        return self.batch.submit(frames, masks)

    def reset(self, video: int) -> None:
        """Forget a video's objects, so that another one may take its place."""
        self.batch.remove(video)
