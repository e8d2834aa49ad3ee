"""Which slot of the memory a frame takes, and how much each stored frame counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEARNING_RATE = 0.1
"""Share of a new sample."""
INITIAL_SHARE = 0.25
"""The first frame's share never falls below this."""


class SampleWeights:
    """Weights of up to `capacity` samples; the first is kept for good."""

    def __init__(self, capacity: int) -> None:
        self.values: NDArray[np.float32] = np.zeros(capacity, np.float32)
        self.values[0] = 1
        self.stored = 1
        self.previous: int | None = None

    @property
    def current(self) -> NDArray[np.float32]:
        """Weights of the stored samples, (stored,); they sum to one."""
        return self.values[: self.stored]

    def insert(self) -> int:
        """Make room for a new sample.

        Returns:
            Its slot: the next free one, else the one of smallest weight other than the first frame's.
        """
        slot = self.stored if self.stored < len(self.values) else 1 + int(np.argmin(self.values[1:]))
        keep = np.float32(1 - LEARNING_RATE)
        if self.previous is None:
            self.values /= keep
            self.values[slot] = LEARNING_RATE
        else:
            self.values[slot] = self.values[self.previous] / keep
        self.values /= self.values.sum()
        if self.values[0] < INITIAL_SHARE:
            self.values /= np.float32(INITIAL_SHARE) + self.values[1:].sum()
            self.values[0] = INITIAL_SHARE
        self.previous = slot
        self.stored = max(self.stored, slot + 1)
        return slot
