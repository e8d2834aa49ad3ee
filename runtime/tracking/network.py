"""What the orchestrator asks of a network, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Target = TypeVar("Target")
"""One object's side of the network: its current crop's features, its memory and its filter omega."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample(Generic[Target]):
    """What a memory update brings: the extracted features go into a slot, with a mask crop.

    Attributes:
        slot: a stored one is replaced, the next free one is added; 0 begins a memory.
        mask: (H, W) in [0, 1].
        weights: of the samples then stored, (N,).
        steps: of steepest descent, `settings.INITIAL_STEPS` or `settings.UPDATE_STEPS`.
    """

    target: Target
    slot: int
    mask: NDArray[np.float32]
    weights: NDArray[np.float32]
    steps: int


class EachAlone:
    """The part of a `Network` whose targets share nothing: each has `store(sample)` and `segment()`."""

    def store(self, samples: Sequence[Sample[Any]]) -> None:
        """See `Network.store`."""
        for sample in samples:
            sample.target.store(sample)

    def segment(self, targets: Sequence[Any]) -> Iterator[NDArray[np.float32]]:
        """See `Network.segment`."""
        for target in targets:
            yield target.segment()


class Network(Protocol[Target]):
    """A loaded network; what several objects have alike, it may compute and hold once."""

    def new_target(self) -> Target:
        """Room for one more object."""

    def extract(self, targets: Sequence[Target], crop: NDArray[np.float32]) -> None:
        """Features of a crop (H, W, 3), RGB 0..255, for all objects that it shows; they have them until their next."""

    def store(self, samples: Sequence[Sample[Target]]) -> None:
        """Memory updates of different objects; omega learned."""

    def segment(self, targets: Sequence[Target]) -> Iterator[NDArray[np.float32]]:
        """Logits (H, W) of each in turn, of the crop extracted last, which was theirs; valid until the next."""

    def state_dicts(self, targets: Sequence[Target]) -> list[dict[str, NDArray[Any]]]:
        """Memories, filters and last features as arrays, those of some objects with what others need too."""

    def restore(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> list[Target]:
        """Targets that go on from `state_dicts`."""
