"""Buffers that several objects hold at once, and that are used again once the last one lets go."""

from __future__ import annotations

from collections.abc import Callable

from .onnxruntime_engine import Buffer

Buffers = dict[str, Buffer]


class Pool:
    """Sets of buffers of one kind.

    Args:
        make: a new set, of zeros.
    """

    def __init__(self, make: Callable[[], Buffers]) -> None:
        self.make = make
        self.free: list[Buffers] = []

    def lend(self) -> Lent:
        """A set that nobody holds; what is in it is left over."""
        return Lent(self)


class Lent:
    """A set of buffers by port, given back to its pool with the last reference."""

    __slots__ = ("__weakref__", "_buffers", "_free")

    def __init__(self, pool: Pool) -> None:
        self._free = pool.free
        self._buffers = pool.free.pop() if pool.free else pool.make()

    def __getitem__(self, port: str) -> Buffer:
        return self._buffers[port]

    def __del__(self) -> None:
        self._free.append(self._buffers)
