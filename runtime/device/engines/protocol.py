"""One graph on a device, whatever runs it: arrays by name, where they lie, and a stream.

Addresses are set once, when arrays are bound; a bound graph is then enqueued any number of times, so that calls can be
captured in a CUDA graph. No library for devices is imported here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ....errors import BundleError
from ...manifest import Port
from ...settings import Branches

DType = Literal["float32", "float16"]

UNUSED: dict[Branches, frozenset[str]] = {
    "both": frozenset(),
    "transduction": frozenset(("few_shot_residual", "few_shot_step", "few_shot_start", "few_shot_update")),
    "induction": frozenset(("transformer_query", "memory_update", "memory_read")),
}
"""Graphs that a choice of branches leaves out."""


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
    """A loaded graph, whose dynamic axis is the number of objects.

    The backbone's `layer*` outputs are read by the decoder of the same backend only, which may lay their bytes out as
    it likes; so may it scale `query`, `key` and the banks of keys.
    """

    @property
    def ports(self) -> Mapping[str, Port]:
        """Inputs and outputs by name, each of the type that its array must have."""

    @property
    def max_batch(self) -> int | None:
        """Largest number of objects in one call; None for any."""

    @property
    def capturable(self) -> bool:
        """Whether `enqueue` may be captured in a CUDA graph."""

    @property
    def in_place(self) -> bool:
        """Whether an output `NAME_next` may be the array of the input `NAME`, at any address."""

    def bind(self, arrays: Mapping[str, DeviceArray]) -> BoundGraph:
        """Tie all inputs and outputs to arrays, which must outlive the result; no output lies where an
        input does, but for engines that work in place.

        Several bindings of one engine exist at a time and are enqueued one after another.

        Raises:
            BundleError: a name, shape or type does not fit the graph.
        """


def check_arrays(graph: str, ports: Iterable[Port], arrays: Mapping[str, DeviceArray]) -> None:
    """Compare arrays with a graph's ports; all dynamic axes of one name have one size.

    Raises:
        BundleError: a name, shape or type does not fit.
    """
    expected = {port.name: port for port in ports}
    if set(expected) != set(arrays):
        raise BundleError(f"graph {graph!r} has ports {sorted(expected)}, bound were {sorted(arrays)}: build it again")
    sizes: dict[str, int] = {}
    for name, port in expected.items():
        array = arrays[name]
        fits = len(array.shape) == len(port.shape) and array.dtype == port.dtype
        for wanted, found in zip(port.shape, array.shape, strict=False):
            fits = fits and found == (sizes.setdefault(wanted, found) if isinstance(wanted, str) else wanted)
        if not fits:
            raise BundleError(
                f"graph {graph!r}: port {name!r} is {port.dtype} {port.shape}, bound was {array.dtype} {array.shape}: "
                "build it again"
            )
