"""Objects followed on a device: one video, or several in one batch. Imports torch; the CPU path never comes here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ...errors import SettingsError
from ..backends import Orchestrator
from ..bundle import Bundle
from ..clock import StageClock
from ..settings import Settings
from ..tracking.protocol import Sight, State
from ..tracking.target_state import TargetState
from .frame_queue import DEPTH, Pending
from .loading import load_network
from .network import DeviceNetwork
from .readiness import choose_ready
from .video_batch import VideoBatch


class PendingLabels:
    """A label map that is being computed; see `protocol.Pending`."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def result(self) -> NDArray[np.uint8]:
        """(H, W)."""
        return self._pending.result()[0]


class DeviceFollower:
    """One video's objects on a device; see `tracking.protocol.Tracking`. Frames are queued ahead.

    Attributes:
        clock: durations of whole frames as the host sees them, once `clock.enabled` is set.
    """

    ahead = DEPTH

    def __init__(self, network: DeviceNetwork) -> None:
        self.network = network
        self.clock = StageClock()
        self.batch = VideoBatch(network, 1)

    @property
    def settings(self) -> Settings:
        """How the bundle is used."""
        return self.network.settings

    @property
    def object_ids(self) -> tuple[int, ...]:
        """In the order in which they appeared."""
        return tuple(self.batch.ids[0])

    def reset(self) -> None:
        """Forget all objects; the next frame may have any size."""
        self.batch.clear()

    def step(
        self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, correct: bool = False
    ) -> NDArray[np.uint8]:
        """See `Segmenter.step`."""
        with self.clock.stage("frame"):
            return self.submit(frame, mask, correct).result()

    def submit(
        self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, correct: bool = False
    ) -> PendingLabels:
        """Enqueue the next frame and return at once; waits only where `ahead` frames are on their way."""
        return PendingLabels(self.batch.submit([frame], [mask], correct))

    def remove(self, object_id: int) -> None:
        """Forget an object; its place is free for another, without a graph captured anew."""
        self.batch.remove(0, object_id)

    def set_interval(self, interval: int) -> None:
        """T from the next frame on: the host decides when a memory is updated."""
        self.network.settings = replace(self.network.settings, interval=interval)

    def probabilities(self) -> dict[int, NDArray[np.float32]]:
        """Copies of the last frame's maps (H, W)."""
        sight = self.sight()
        return {} if sight is None else dict(zip(sight.targets, sight.probabilities, strict=True))

    def sight(self) -> Sight | None:
        """What the next windows follow from, copied to the host."""
        if not self.object_ids:
            return None
        self.network.lane.wait()
        places = self.batch.places()
        maps, pos, scale, base = (
            self.batch.tensors[name].cpu().numpy()[places] for name in ("probability", "pos", "scale", "base_size")
        )
        targets = {
            object_id: TargetState(pos[i].copy(), np.float32(scale[i, 0]), base[i].copy())
            for i, object_id in enumerate(self.object_ids)
        }
        return Sight(maps, targets, (slice(0, maps.shape[1]), slice(0, maps.shape[2])))

    def align(self, sight: Sight) -> None:
        """Take over probabilities and target states; memories stay their own."""
        if not self.object_ids:
            return
        states = [sight.targets[i] for i in self.object_ids]
        values = {
            "probability": sight.probabilities,
            "pos": np.stack([state.pos for state in states]),
            "scale": np.stack([np.atleast_1d(state.target_scale) for state in states]),
            "base_size": np.stack([state.base_target_size for state in states]),
        }
        with self.network.lane.work():
            for row, place in enumerate(self.batch.places()):
                self.batch.layout.write(place, {name: value[row] for name, value in values.items()})

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays; to be loaded by the same backend and bundle."""
        return self.batch.state_dict()

    def load_state_dict(self, state: State) -> None:
        """The reverse of `state_dict`."""
        self.batch.load_state_dict(state)


class BatchSegmenter:
    """Follows the objects of V videos of one frame size, each with objects and pace of its own, in one batch.

    Example:
        >>> segmenter = BatchSegmenter.load("lite", videos=2, device="cuda")                      # doctest: +SKIP
        >>> a, b = segmenter.step([frame_a, frame_b], [mask_a, mask_b])                           # doctest: +SKIP
        >>> a, b = segmenter.step([frame_a, frame_b])                                             # doctest: +SKIP
    """

    def __init__(self, network: DeviceNetwork, videos: int) -> None:
        self.network = network
        self.batch = VideoBatch(network, videos)

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle = "lite",
        *,
        videos: int,
        device: str = "cuda",
        backend: str = "auto",
        precision: str | None = None,
        **options: Any,
    ) -> Self:
        """Open a bundle for V videos; arguments and errors as of `Segmenter.load`.

        Raises:
            SettingsError: `videos` is not 1 to 256, or a CPU's own backend is asked for.
        """
        if not 1 <= videos <= 256:
            raise SettingsError(f"videos is {videos}: expected 1 to 256")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        settings = Settings.resolve(opened.manifest.defaults, **options)
        choice = choose_ready(opened, backend, precision, device)
        if choice.orchestrator is Orchestrator.HOST:
            raise SettingsError(
                f"backend {choice.name} follows one video at a time on the CPU: use --device cuda, or backend torch"
            )
        return cls(load_network(opened, choice, settings), videos)

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
