"""Eq. 5: what the queries of a crop read from the memories of the objects that look at it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .memory import Memory
from .onnxruntime_engine import Buffer

if TYPE_CHECKING:
    from .network import OnnxNetwork, OnnxTarget


SEVERAL = "memory_read_several"
"""The graph that reads for several objects at once."""


class MemoryReader:
    """Reads frame by frame: a frame's affinities stay in the cache, the whole memory's would not.

    Attributes:
        E_tra_star: (1, h*w, D) of the object whose turn it is.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        # The network holds its reader: one that holds itself would keep its engines until the collector comes.
        self._network = weakref.proxy(network)
        self.E_tra_star = network.buffer("E_tra_star")
        self._numerator, self._denominator = network.buffer("numerator"), network.buffer("denominator")
        self._sum = np.zeros_like(self._denominator.array)
        self._wide: dict[int, tuple[Buffer, NDArray[np.float32]]] = {}

    def read(self, targets: Sequence[OnnxTarget]) -> Iterator[None]:
        """Fill `E_tra_star` for each of the objects in turn."""
        several: dict[int, list[OnnxTarget]] = {}
        # Products of other widths may be summed in another order.
        if self._network.settings.share == "frame" and SEVERAL in self._network.engines:
            for target in targets:
                several.setdefault(id(target.memory), []).append(target)
        found: dict[int, NDArray[np.float32]] = {}
        for target in targets:
            group = several.get(id(target.memory), [])
            with self._network.clock.stage("memory_read"):
                if len(group) < 2:
                    self._read_one(target)
                else:
                    if id(target.memory) not in found:
                        found[id(target.memory)] = self._read_group(group)
                    D = self.E_tra_star.array.shape[-1]
                    first = D * group.index(target)
                    np.copyto(self.E_tra_star.array, found[id(target.memory)][..., first : first + D])
            yield

    def _read_one(self, target: OnnxTarget) -> None:
        assert target.memory is not None
        outputs = {"numerator": self._numerator, "denominator": self._denominator}
        self._sum_over(target, target.memory, "memory_read", "E_tra", target.E_tra, outputs, self.E_tra_star.array)

    def _read_group(self, group: list[OnnxTarget]) -> NDArray[np.float32]:
        """Objects of one memory, their values side by side: (1, h*w, objects * D)."""
        memory = group[0].memory
        assert memory is not None
        if len(group) not in self._wide:
            _, n, D = self.E_tra_star.array.shape
            shape = (1, n, len(group) * D)
            self._wide[len(group)] = Buffer.zeros(*shape), np.zeros(shape, np.float32)
        numerators, total = self._wide[len(group)]
        outputs = {"numerators": numerators, "denominator": self._denominator}
        values = _side_by_side(memory, group)
        self._sum_over(group[0], memory, SEVERAL, "E_tra_several", values, outputs, total)
        return total

    def _sum_over(
        self,
        target: OnnxTarget,
        memory: Memory,
        graph: str,
        port: str,
        values: Sequence[Buffer],
        outputs: Mapping[str, Buffer],
        total: NDArray[np.float32],
    ) -> None:
        assert target.features is not None
        engine, query = self._network.engines[graph], target.features.lent["query"]
        numerator, denominator = (buffer.array for buffer in outputs.values())
        for i, (frame, E_tra) in enumerate(zip(memory.frames, values, strict=True)):
            engine.run({"query": query, "key_cross": frame.key_cross, port: E_tra}, outputs)
            if i == 0:
                np.copyto(total, numerator)
                np.copyto(self._sum, denominator)
            else:
                total += numerator
                self._sum += denominator
        total /= self._sum


def _side_by_side(memory: Memory, group: Sequence[OnnxTarget]) -> list[Buffer]:
    """E_tra of several objects by slot, (1, h*w, objects * D); only slots that changed are copied."""
    owners = tuple(target.number for target in group)
    if memory.owners != owners:
        memory.owners, memory.values = owners, []
    for slot in range(memory.stored):
        if slot == len(memory.values):
            parts = [target.E_tra[slot].array for target in group]
            memory.values.append(Buffer(np.concatenate(parts, axis=-1)))
        elif slot in memory.changed:
            np.concatenate([target.E_tra[slot].array for target in group], axis=-1, out=memory.values[slot].array)
    memory.changed.clear()
    return memory.values
