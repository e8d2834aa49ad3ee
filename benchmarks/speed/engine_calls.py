"""Which graphs are run how often, and on what shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ...runtime.cpu.network import OnnxNetwork
from ...runtime.cpu.onnxruntime_engine import Buffer, Runnable

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
"""The shape of every input, by port."""
Call = tuple[str, Shapes]
"""A graph and what it is fed."""


class _Counted:
    """Counts an engine's calls."""

    def __init__(self, name: str, engine: Runnable, calls: Counter[Call]) -> None:
        self._engine = engine
        self._name = name
        self._calls = calls

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Count, and run."""
        self._calls[self._name, tuple((port, buffer.array.shape) for port, buffer in inputs.items())] += 1
        self._engine.run(inputs, outputs)


@contextmanager
def counted_calls(network: OnnxNetwork) -> Iterator[Counter[Call]]:
    """Count every engine's calls while the block runs."""
    engines, calls = dict(network.engines), Counter[Call]()
    network.engines.update({name: _Counted(name, engine, calls) for name, engine in engines.items()})
    try:
        yield calls
    finally:
        network.engines.update(engines)
