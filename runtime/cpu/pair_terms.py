"""What memory frames took from one another's attention, kept so that a frame that leaves costs no product.

When a frame leaves the memory, every other frame's C and D lose the terms that they once took from it. With sample
weights that grow from frame to frame it is the oldest but the first that leaves, so of two frames only the newer one's
terms from the older are ever wanted. Taking out the very numbers that were put in is as exact as computing them again.
Memories that hold the same two frames hold one term.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lent import Lent, Pool

BUDGET = 525 << 20
"""Bytes for all objects; one of `paper` at memory 20 takes 550 MB. What has no room is computed again as it leaves."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Term:
    """What one frame took from another, as C and D have it.

    Attributes:
        sums: C and D.
        apart: whether both frames' terms were computed for several memories, not within one's change; in bf16 these
            differ in their last bits.
    """

    sums: Lent
    apart: bool


class TermPool:
    """The room that all memories' terms share.

    Args:
        sums: of a frame's C and D.
        size: bytes of such.

    Attributes:
        budget: bytes that all terms may take.
    """

    def __init__(self, sums: Pool, size: int) -> None:
        self.budget = BUDGET
        self.kept: weakref.WeakSet[Term] = weakref.WeakSet()
        self._sums, self._size = sums, size

    def has_room(self) -> bool:
        """Whether one more term fits."""
        return (1 + len(self.kept)) * self._size <= self.budget

    def new_term(self, apart: bool) -> Term:
        """A term to be filled, which counts once a memory keeps it."""
        return Term(self._sums.lend(), apart)


class PairTerms:
    """One memory's kept terms by slots (row, column): what the frame in the one took from the frame in the other.

    One for two slots; none of slot 0, whose frame is older than all others and stays.
    """

    def __init__(self, pool: TermPool) -> None:
        self._pool = pool
        self._terms: dict[tuple[int, int], Term] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def copy(self) -> PairTerms:
        """The same terms for another memory."""
        other = PairTerms(self._pool)
        other._terms = dict(self._terms)
        return other

    def take(self, other: int, slot: int) -> Term | None:
        """What the frame in `other` loses with the one in `slot`; None where that was not kept. Both are forgotten."""
        self._terms.pop((slot, other), None)
        return self._terms.pop((other, slot), None)

    def wanted(self, row: int, column: int, instead: Term | None) -> bool:
        """Whether a term would be kept: instead of one that was taken, or where there is room."""
        return 0 not in (row, column) and (instead is not None or self._pool.has_room())

    def keep(self, row: int, column: int, term: Term) -> None:
        """Keep what the frame in `row` took from the one in `column`."""
        self._terms[row, column] = term
        self._pool.kept.add(term)

    @property
    def slots(self) -> NDArray[np.int64]:
        """Row, column and whether it was computed apart, of every kept term, (terms, 3)."""
        rows = [(row, column, term.apart) for (row, column), term in self._terms.items()]
        return np.array(rows, np.int64).reshape(-1, 3)
