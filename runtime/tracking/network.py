"""What the orchestrator asks of a network, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Target(Protocol):
    """One object's side of the network: its current crop's features, its memory and its filter omega."""

    def extract(self, crop: NDArray[np.float32]) -> None:
        """Take the features of a crop (H, W, 3), RGB 0..255; they stay until the next call."""

    def start(self, mask: NDArray[np.float32]) -> None:
        """Begin the memory with the extracted features and their mask crop (H, W) in [0, 1]; learn omega."""

    def store(self, slot: int, mask: NDArray[np.float32], sample_weights: NDArray[np.float32], steps: int) -> None:
        """Put the extracted features and their mask crop into a slot of the memory; update omega.

        Args:
            slot: a stored one is replaced, the next free one is added.
            mask: (H, W) in [0, 1].
            sample_weights: weights of the samples now stored, (N,).
            steps: of steepest descent, `settings.INITIAL_STEPS` or `settings.UPDATE_STEPS`.
        """

    def segment(self) -> NDArray[np.float32]:
        """Logits (H, W) of the extracted crop; valid until the network's next call."""

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Memory and filter as arrays."""

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""


class Network(Protocol):
    """A loaded network."""

    def new_target(self) -> Target:
        """Room for one more object."""
