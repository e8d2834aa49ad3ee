"""Which slot of the memory a frame takes, and how much each stored frame counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEARNING_RATE = 0.1
"""Share of a new sample."""
INITIAL_SHARE = 0.25
"""The first frame's share never falls below this."""
MOST_GIVEN = 4
"""Given samples besides the first that are kept; then the oldest of them goes. Two slots stay for other frames."""
KEPT_SHARE = 0.5
"""What the first sample and the corrections have together at least; none needs more than `INITIAL_SHARE`."""


class SampleWeights:
    """Weights of up to `capacity` samples; the first is kept for good, and so are the latest corrections.

    Attributes:
        values: (capacity,), zero where nothing is stored.
        stored: samples stored.
        previous: slot of the sample that came last; None if none came after the first.
        given: slots of corrections, the oldest first.
    """

    def __init__(self, capacity: int) -> None:
        self.values: NDArray[np.float32] = np.zeros(capacity, np.float32)
        self.values[0] = 1
        self.stored = 1
        self.previous: int | None = None
        self.given: tuple[int, ...] = ()

    @property
    def current(self) -> NDArray[np.float32]:
        """Weights of the stored samples, (stored,); they sum to one."""
        return self.values[: self.stored]

    def insert(self) -> int:
        """Make room for a new sample.

        Returns:
            Its slot: the next free one, else the one of smallest weight other than those that are kept.
        """
        return self._put(self._free())

    def insert_given(self) -> int:
        """Make room for a correction, which is kept from then on; of more than `MOST_GIVEN` the oldest goes.

        A memory of two frames keeps none of them for good, one of one frame takes it in the first one's place.
        """
        capacity = len(self.values)
        if capacity == 1:
            return 0
        most = min(MOST_GIVEN, capacity - 2)
        slot = self.given[0] if 0 < most == len(self.given) else self._free()
        if most > 0:
            self.given = (*(s for s in self.given if s != slot), slot)
        return self._put(slot)

    def _free(self) -> int:
        if self.stored < len(self.values):
            return self.stored
        kept = np.zeros(len(self.values), np.bool_)
        kept[[0, *self.given]] = True
        return int(np.where(kept, np.inf, self.values).argmin())

    def _put(self, slot: int) -> int:
        keep = np.float32(1 - LEARNING_RATE)
        if self.previous is None:
            self.values /= keep
            self.values[slot] = LEARNING_RATE
        else:
            self.values[slot] = self.values[self.previous] / keep
        self.values /= self.values.sum()
        self._raise_kept()
        self.previous = slot
        self.stored = max(self.stored, slot + 1)
        return slot

    def _raise_kept(self) -> None:
        """The first sample and the corrections never count less than their share."""
        kept = np.array([0, *self.given])
        share = min(INITIAL_SHARE, KEPT_SHARE / len(kept))
        low = np.zeros(len(self.values), np.bool_)
        low[kept[self.values[kept] < share]] = True
        if low.any():
            self.values /= np.float32(share * np.count_nonzero(low)) + self.values[~low].sum()
            self.values[low] = share

    def state_dict(self) -> dict[str, Any]:
        """Weights, samples stored, the last slot (-1 for none) and the corrections' slots."""
        return {
            "weights": self.values,
            "stored": self.stored,
            "previous": -1 if self.previous is None else self.previous,
            "given": np.array(self.given, np.int64),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        self.values[:] = state["weights"]
        self.stored = int(state["stored"])
        self.previous = None if state["previous"] < 0 else int(state["previous"])
        self.given = tuple(int(slot) for slot in state["given"])
