"""One graph on a device, whatever runs it: arrays by name, where they lie, and a stream.

Addresses are set once, when arrays are bound; a bound graph is then enqueued any number of times, so that calls can be
captured in a CUDA graph. No library for devices is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

DType = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """Contiguous memory that a graph reads or fills.

    Attributes:
        address: of its first element, on the device (on the host for engines that compute there).
        shape: all sizes, without dynamic axes.
        dtype: of its elements.
        owner: what keeps the memory alive: a tensor, an allocation, an array.
    """

    address: int
    shape: tuple[int, ...]
    dtype: DType
    owner: object = field(repr=False, compare=False)


class BoundGraph(Protocol):
    """A graph with its arrays."""

    def enqueue(self, stream: int) -> None:
        """Start computing after what the stream holds already; returns before the device has finished.

        Args:
            stream: handle of a CUDA stream; 0 where there is no device.

        Raises:
            DeviceError: the device refused; nothing was enqueued.
        """


class DeviceEngine(Protocol):
    """A loaded graph."""

    def bind(self, arrays: Mapping[str, DeviceArray]) -> BoundGraph:
        """Tie all inputs and outputs to arrays, which must outlive the result.

        Raises:
            BundleError: a name, shape or type does not fit the graph.
        """
