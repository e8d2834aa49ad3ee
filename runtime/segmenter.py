"""The public interface: frames in, label maps out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import SettingsError
from .backends import Choice, Name, Orchestrator
from .bundle import Bundle
from .clock import StageClock
from .device.readiness import choose_ready, device_name, host_driven
from .settings import Settings
from .tracking.protocol import Pending, Tracking


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A segmenter's state in memory, between two frames; see `Segmenter.snapshot`."""

    _state: dict[str, NDArray[Any]]


class Segmenter:
    """Follows any number of objects through one video; memory and time per frame do not grow with its length.

    Example:
        >>> segmenter = Segmenter.load("lite")                   # doctest: +SKIP
        >>> labels = segmenter.step(frame, mask=first_labels)    # doctest: +SKIP
        >>> labels = segmenter.step(frame)                       # doctest: +SKIP

    Attributes:
        tracking: what follows the objects, on the host or on a device.
        choice: the backend; None where the segmenter was not loaded from a bundle.
        runs_on: what runs the engines, as a user reads it.
    """

    def __init__(self, tracking: Tracking, choice: Choice | None = None, runs_on: str = "") -> None:
        self.tracking = tracking
        self.choice = choice
        self.runs_on = runs_on

    @classmethod
    def load(
        cls,
        bundle: str | Path | Bundle = "lite",
        *,
        memory: int | None = None,
        interval: int | None = None,
        branches: str = "both",
        threads: int | None = None,
        score_resize: str = "given",
        min_area: float | None = None,
        windows: str | None = None,
        share: str = "exact",
        device: str = "cpu",
        backend: str = "auto",
        precision: str | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: the name of an installed bundle, a bundle's folder, or an opened one.
            memory: N, frames kept per object; the bundle's default if None.
            interval: T, frames between memory updates; the bundle's default if None.
            branches: "both", "transduction" or "induction" (Table 1).
            threads: cores to use; all that the process may use if None.
            score_resize: "given" or "ratio"; see `tracking.crop.paste_scores`.
            min_area: sum of probabilities, in pixels, below which an object's place and size are kept; the released
                tracker's 100 if None.
            windows: "released", as the released tracker cuts them, or "steady": one size for windows as large as the
                frame, so that backends and machines agree; see `tracking.crop.place_window`. The bundle's default if
                None.
            share: "exact", where objects whose windows coincide share what follows from them, and masks stay what they
                are; or "frame", where all windows are the whole frame: for many objects that are not small.
            device: "cpu", "cuda", "cuda:1", ...
            backend: what runs the engines, see `backends`: "auto"; on the CPU "onnxruntime" or "openvino", on a GPU
                "tensorrt", "torch", "torch:compiled", "aoti" or "onnxruntime". "openvino:bf16" as with `precision`.
            precision: "fp16" or "fp32" of the torch backends, "fp32" or "bf16" of OpenVINO; other engines have that of
                their build.

        Raises:
            BundleError: the bundle is missing or not whole.
            DependencyError: a library is not installed.
            DeviceError: the device cannot be used, or the backend cannot run the bundle.
            SettingsError: a setting is out of its range.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        settings = Settings.resolve(
            opened.manifest.defaults,
            memory=memory,
            interval=interval,
            branches=branches,
            threads=threads,
            score_resize=score_resize,
            min_area=min_area,
            windows=windows,
            share=share,
        )
        choice = choose_ready(opened, backend, precision, device)
        return cls(*load_tracking(opened, choice, settings))

    @property
    def settings(self) -> Settings:
        """How the bundle is used."""
        return self.tracking.settings

    @property
    def clock(self) -> StageClock:
        """Durations of the stages, once `clock.enabled` is set."""
        return self.tracking.clock

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are followed, in the order in which they appeared."""
        return self.tracking.object_ids

    def reset(self) -> None:
        """Forget all objects; the next frame may have any size."""
        self.tracking.reset()

    def step(
        self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, *, correct: bool = False
    ) -> NDArray[np.uint8]:
        """Segment the next frame.

        Args:
            frame: (H, W, 3) uint8, RGB; all frames have one size.
            mask: (H, W) label map, 0 for the background; ids that are new here are followed from this frame on.
            correct: whether the mask is the truth also for ids in it that are followed already. Such an object is
                merged as given; the frame stays in its memory like its first one (of several corrections the latest
                `sample_weights.MOST_GIVEN`), its filter learns anew from all that is stored, and its place and scale
                start again from here. Otherwise these ids are ignored, as the released tracker does.

        Returns:
            Label map (H, W), uint8: 0 and the objects' ids.

        Raises:
            MaskError: no object is known yet, or the mask has another size, another type or ids beyond 255.
            SettingsError: the frame is of another type or size.
        """
        return self.tracking.step(frame, mask, correct)

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None = None, *, correct: bool = False) -> Pending:
        """As `step`, without waiting: `result()` of what is returned gives the label map.

        A device goes on by itself, and this waits only where as many frames are on their way as it takes. On the host
        the label map is computed at once.
        """
        return self.tracking.submit(frame, mask, correct)

    def stream(
        self, frames: Iterable[NDArray[np.uint8]], mask: NDArray[Any] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Label maps of all frames, the host working ahead of a device; `mask` belongs to the first one."""
        waiting: deque[Pending] = deque()
        for frame in frames:
            waiting.append(self.submit(frame, mask))
            mask = None
            if len(waiting) == self.tracking.ahead:
                yield waiting.popleft().result()
        for pending in waiting:
            yield pending.result()

    def remove(self, object_id: int) -> None:
        """Forget an object; the others go on as they are.

        Raises:
            SettingsError: it is not followed.
        """
        if object_id not in self.object_ids:
            known = ", ".join(map(str, self.object_ids)) or "none"
            raise SettingsError(f"object {object_id} is not followed: followed are {known}")
        self.tracking.remove(object_id)

    def set_interval(self, interval: int) -> None:
        """Let T be `interval` from the next frame on, for all objects.

        Raises:
            SettingsError: it is less than 1.
        """
        if interval < 1:
            raise SettingsError(f"interval is {interval}: expected 1 or more")
        self.tracking.set_interval(interval)

    def probabilities(self) -> dict[int, NDArray[np.float32]]:
        """Merged probability maps (H, W) of the objects in the last frame, by id."""
        return self.tracking.probabilities()

    def align(self, other: Segmenter) -> None:
        """Take over another segmenter's probabilities and target states, so that the next frame is cut alike.

        Windows are cut at whole pixels: a difference in a scale's last bit may move one. What the two networks make of
        the same crops can only be compared without that. Both must follow the same objects; memories stay their own.
        """
        sight = other.tracking.sight()
        if sight is not None:
            self.tracking.align(sight)

    def snapshot(self) -> Snapshot:
        """The state between two frames, to come back to: what `state_dict` holds, in memory."""
        return Snapshot(self.state_dict())

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot of this segmenter; the next masks are exactly those that would have followed it."""
        self.load_state_dict(snapshot._state)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays: a segmenter that loads it goes on exactly alike."""
        return self.tracking.state_dict()

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`; bundle, backend and settings must be the same. The arrays are copied."""
        self.tracking.load_state_dict(state)


def load_tracking(bundle: Bundle, choice: Choice, settings: Settings) -> tuple[Tracking, Choice, str]:
    """What follows objects with a bundle's engines, with its choice, and what runs them, as a user reads it.

    Raises:
        BundleError: the engines do not load.
        DependencyError: a library is not installed.
        DeviceError: the device cannot be used.
    """
    if choice.orchestrator is Orchestrator.HOST:
        from .cpu.loading import load_network
        from .tracking.follower import HostFollower

        clock = StageClock()
        network = load_network(bundle, choice, settings, clock)
        return HostFollower(network, bundle.manifest.geometry, settings, clock), choice, choice.runs_on()
    place = device_name(choice.device)
    reason = host_driven(choice.name, choice.device)
    if reason is not None:
        return _host_driven(bundle, choice, settings), choice, f"TensorRT driven from the host on {place}: {reason}"
    from .device.follower import DeviceFollower
    from .device.loading import load_network as load_device_network

    return DeviceFollower(load_device_network(bundle, choice, settings)), choice, choice.runs_on(place)


def _host_driven(bundle: Bundle, choice: Choice, settings: Settings) -> Tracking:
    assert choice.name is Name.TENSORRT
    from .host_driven.pycuda_memory import pycuda_network
    from .tracking.follower import HostFollower

    clock = StageClock()
    network = pycuda_network(bundle, settings, clock, choice.device)
    return HostFollower(network, bundle.manifest.geometry, settings, clock)
