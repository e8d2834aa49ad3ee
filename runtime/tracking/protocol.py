"""What `Segmenter` asks of whatever follows objects, on the host or on a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..settings import Settings
from .target_state import TargetState

State = Mapping[str, NDArray[Any]]
"""Everything that the next frame depends on, as arrays by name."""


class Pending(Protocol):
    """A label map that is there or will be."""

    def result(self) -> NDArray[np.uint8]:
        """(H, W); waits for its frame only. May be called from another thread."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A label map that is there."""

    labels: NDArray[np.uint8]

    def result(self) -> NDArray[np.uint8]:
        """(H, W)."""
        return self.labels


@dataclass(frozen=True, slots=True)
class Sight:
    """What the next frame's windows follow from.

    Attributes:
        probabilities: merged probability maps (objects, H, W) of the last frame.
        targets: where each object was, by id, in the same order.
        region: rows and columns outside of which the maps are zero.
    """

    probabilities: NDArray[np.float32]
    targets: dict[int, TargetState]
    region: tuple[slice, slice]


class Tracking(Protocol):
    """Objects followed through one video; see `Segmenter` for what the verbs mean.

    Attributes:
        clock: durations of the stages, once `clock.enabled` is set.
        ahead: frames that may be on their way at a time.
    """

    clock: StageClock
    ahead: int

    @property
    def settings(self) -> Settings:
        """How the bundle is used."""

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Ids of the objects that are followed, in the order in which they appeared."""

    def reset(self) -> None:
        """Forget all objects."""

    def step(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None, correct: bool) -> NDArray[np.uint8]:
        """Segment the next frame."""

    def submit(self, frame: NDArray[np.uint8], mask: NDArray[Any] | None, correct: bool) -> Pending:
        """Begin with the next frame."""

    def remove(self, object_id: int) -> None:
        """Forget an object that is followed."""

    def set_interval(self, interval: int) -> None:
        """Let T be `interval`, at least 1, from the next frame on."""

    def probabilities(self) -> dict[int, NDArray[np.float32]]:
        """Merged probability maps (H, W) of the last frame, by id; copies."""

    def sight(self) -> Sight | None:
        """What the next windows follow from; None before the first mask."""

    def align(self, sight: Sight) -> None:
        """Cut the next windows as another does that follows the same objects."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on; copies."""

    def load_state_dict(self, state: State) -> None:
        """The reverse of `state_dict`; the arrays are copied."""
