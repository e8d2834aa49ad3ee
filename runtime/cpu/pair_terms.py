"""What memory frames took from one another's attention, kept so that a frame that leaves costs no product.

When a frame leaves the memory, every other frame's C and D lose the terms that they once took from it. With sample
weights that grow from frame to frame it is the oldest but the first that leaves, so of two frames only the newer one's
terms from the older are ever wanted. Taking out the very numbers that were put in is as exact as computing them again.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .onnxruntime_engine import Buffer

BUDGET = 600 << 20
"""Bytes for all objects; one of `paper` at memory 20 takes 550 MB. What has no room is computed again as it leaves."""


@dataclass(slots=True)
class Term:
    """The terms that the frame in slot `row` took from the frame in slot `column`, as C and D have them."""

    row: int
    column: int
    C: Buffer
    D: Buffer


class TermPool:
    """The room that all objects' terms share.

    Args:
        C: a buffer of zeros of a frame's C.
        D: the same of its D.

    Attributes:
        budget: bytes that all terms may take.
    """

    def __init__(self, C: Callable[[], Buffer], D: Callable[[], Buffer]) -> None:
        self.budget = BUDGET
        self._C, self._D = C, D
        self._size = C().array.nbytes + D().array.nbytes
        self._users: weakref.WeakSet[PairTerms] = weakref.WeakSet()

    def new_user(self) -> PairTerms:
        """The terms of one more object; their room is free again once the object is gone."""
        user = PairTerms(self)
        self._users.add(user)
        return user

    def has_room(self) -> bool:
        """Whether one more term fits."""
        return (1 + sum(len(user) for user in self._users)) * self._size <= self.budget

    def new_term(self, row: int, column: int) -> Term:
        """A term of zeros."""
        return Term(row, column, self._C(), self._D())


class PairTerms:
    """One object's kept terms, one for two slots; none of slot 0, whose frame is older than all others and stays."""

    def __init__(self, pool: TermPool) -> None:
        self._pool = pool
        self._terms: dict[frozenset[int], Term] = {}

    def __len__(self) -> int:
        return len(self._terms)

    def renew(self, other: int, slot: int, replaced: bool) -> Term | None:
        """The term of two slots, one of which takes a new frame.

        Args:
            other: the slot whose frame stays.
            slot: the slot whose frame is new.
            replaced: whether another frame was there.

        Returns:
            A term with what `other` loses, zeros if there was no frame, to be overwritten with what the new frame takes
            from it; None where that was not kept or there is no room.
        """
        pair = frozenset((other, slot))
        if replaced:
            term = self._terms.pop(pair, None)
            if term is None or term.row != other:
                return None
        else:
            if 0 in pair or not self._pool.has_room():
                return None
            term = self._pool.new_term(slot, other)
        term.row, term.column = slot, other
        self._terms[pair] = term
        return term

    @property
    def slots(self) -> NDArray[np.int64]:
        """Row and column of every kept term, (terms, 2)."""
        return np.array([(term.row, term.column) for term in self._terms.values()], np.int64).reshape(-1, 2)
