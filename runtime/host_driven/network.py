"""The network as engines on a device, driven from the host: `network.Network` for whatever runs `DeviceEngine`s.

Crops and mask crops go in through pinned memory, engines are enqueued on one stream one after another, logits come out;
only for these does the host wait. Every array is allocated with its object or before, pinned memory when more of it is
first on its way. A memory has all its slots from the start; `valid` says which hold a frame (see the bundle's graphs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..clock import StageClock
from ..device.engines.protocol import BoundGraph, DeviceArray, DeviceEngine, DType
from ..manifest import GraphRecord, Port
from ..settings import INITIAL_STEPS, Settings
from ..tracking.network import EachAlone, Sample

GRAPHS = (
    *("backbone", "label_encoder", "transformer_query", "memory_update", "memory_read"),
    *("few_shot_start", "few_shot_update", "decoder"),
)
"""Graphs that are called; a bundle may hold others."""
CARRIED = ("C_all", "D_all")
"""Banks that a memory update renews as a whole; of the others it renews one slot."""


class Device(Protocol):
    """Memory and one stream, and nothing else. Copies are enqueued on the stream.

    Attributes:
        stream: its handle.
    """

    stream: int

    def current(self) -> AbstractContextManager[None]:
        """A block within which the device can be used from this thread."""

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """New memory of zeros on the device, aligned to 256 bytes."""

    def pinned(self, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
        """New memory of the host from which the device can copy by itself."""

    def upload(self, destination: DeviceArray, source: NDArray[Any]) -> None:
        """Pinned memory to the device; it must stay as it is until the stream is done with it."""

    def download(self, destination: NDArray[Any], source: DeviceArray) -> None:
        """The device to pinned memory, which is complete once `wait` returned."""

    def copy(self, destination: DeviceArray, source: DeviceArray) -> None:
        """Device to device, the same number of bytes."""

    def wait(self) -> None:
        """Until the stream has done everything."""


SHARED = (
    *("layer1", "layer2", "layer3", "layer4", "query", "E_tra_star", "logits"),
    *("E_ind", "W", "E_tra", "omega_next", "z_all_next", "key_all_next", "C_all_next", "D_all_next"),
)
"""Arrays that only pass from one call to the next, of whatever object."""
OWN = (
    *("x_tra", "x_ind", "key", "C", "D", "omega"),
    *("z_all", "key_all", "C_all", "D_all", "key_cross_all", "E_tra_all", "z_ind", "E_ind_all", "W_all", "valid"),
)
"""Arrays that every object has for itself: last features, filter, memory of both branches."""


MOST_STAGED = 16
"""Times that an input is filled before the host waits."""
FEATURES = ("x_tra", "x_ind", "key", "C", "D")
"""Arrays of those that hold a crop's features from one frame to the next."""


def slot_of(bank: DeviceArray, slot: int) -> DeviceArray:
    """One slot (1, ...) of a bank (1, N, ...)."""
    shape = (1, *(bank.shape[2:] or (1,)))
    return replace(bank, address=bank.address + slot * prod(shape) * np.dtype(bank.dtype).itemsize, shape=shape)


def fetch(device: Device, array: DeviceArray) -> NDArray[Any]:
    """A copy of an array; waits."""
    host = device.pinned(array.shape, array.dtype)
    device.download(host, array)
    device.wait()
    return host.copy()


def put(device: Device, array: DeviceArray, values: NDArray[Any]) -> None:
    """Fill an array, in its type; waits."""
    host = device.pinned(array.shape, array.dtype)
    host[...] = values
    device.upload(array, host)
    device.wait()


def port_type(port: Port) -> DType:
    """The type of a port's array."""
    return "float16" if port.dtype == "float16" else "float32"


@dataclass(slots=True)
class Staged:
    """An input on the device and the pinned memories that it is filled from.

    Attributes:
        hosts: one for each time that it is filled before the host waits.
        used: of them, since the host waited.
    """

    hosts: list[NDArray[Any]]
    device: DeviceArray
    used: int = 0


class EngineNetwork(EachAlone):
    """Loaded engines and the arrays that all objects share; one object per call.

    Args:
        engines: by graph; those of a branch that is switched off may be missing.
        records: of all the bundle's graphs.
        device: where the engines run.
        settings: branches, and a memory of no more than the graphs' slots.
        clock: stage "device" is the time that the host waits for logits.
    """

    def __init__(
        self,
        engines: Mapping[str, DeviceEngine],
        records: Mapping[str, GraphRecord],
        device: Device,
        settings: Settings,
        clock: StageClock,
    ) -> None:
        self.engines = {name: engines[name] for name in GRAPHS if name in engines}
        self.device, self.settings, self.clock = device, settings, clock
        self._ports = {p.name: p for record in records.values() for p in (*record.inputs, *record.outputs)}
        self.capacity = self.shape("valid")[1]
        with device.current():
            self.staged = {name: self._stage(name) for name in ("crop", "mask", "slot", "sample_weights")}
            self.arrays = {name: self.new(name) for name in SHARED}
            self.arrays |= {name: staged.device for name, staged in self.staged.items()}
            self.logits = device.pinned(self.shape("logits"), self._dtype("logits"))
            self.one = device.zeros((1, 1), "float32")
            put(device, self.one, np.ones((1, 1), np.float32))

    def shape(self, port: str) -> tuple[int, ...]:
        """A port's shape for one object."""
        return tuple(1 if isinstance(n, str) else n for n in self._ports[port].shape)

    def _dtype(self, port: str) -> DType:
        return port_type(self._ports[port])

    def new(self, port: str) -> DeviceArray:
        """A new array of a port's shape and type."""
        return self.device.zeros(self.shape(port), self._dtype(port))

    def _stage(self, port: str) -> Staged:
        return Staged([], self.new(port))

    def fill(self, port: str, values: NDArray[Any]) -> None:
        """Write an input's pinned memory, one that is not on its way, and enqueue its way to the device."""
        staged = self.staged[port]
        if staged.used == MOST_STAGED:
            self.wait()
        if staged.used == len(staged.hosts):
            staged.hosts.append(self.device.pinned(self.shape(port), self._dtype(port)))
        host = staged.hosts[staged.used]
        staged.used += 1
        host[...] = values
        self.device.upload(staged.device, host)

    def wait(self) -> None:
        """Until the stream has done everything."""
        self.device.wait()
        for staged in self.staged.values():
            staged.used = 0

    def new_target(self) -> EngineTarget:
        """Room for one more object."""
        with self.device.current():
            return EngineTarget(self)

    def extract(self, targets: Sequence[EngineTarget], crop: NDArray[np.float32]) -> None:
        """Features of a crop (H, W, 3), computed for the first object and copied to the others."""
        first, *others = targets
        first.extract(crop)
        with self.device.current():
            for target in others:
                for name in FEATURES:
                    self.device.copy(target.arrays[name], first.arrays[name])

    def state_dicts(self, targets: Sequence[EngineTarget]) -> list[dict[str, NDArray[Any]]]:
        """Copies of memories, filters and last features."""
        return [target.state_dict() for target in targets]

    def restore(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> list[EngineTarget]:
        """Targets that go on from `state_dicts`."""
        targets = [self.new_target() for _ in states]
        for target, state in zip(targets, states, strict=True):
            target.load_state_dict(state)
        return targets


class EngineTarget:
    """One object's features, memory and filter."""

    def __init__(self, network: EngineNetwork) -> None:
        self.network = network
        self.arrays = {name: network.new(name) for name in OWN}
        self.graphs: dict[str, BoundGraph] = {
            name: engine.bind({port: self._array(port) for port in engine.ports})
            for name, engine in network.engines.items()
        }

    def _array(self, port: str) -> DeviceArray:
        return self.arrays[port] if port in self.arrays else self.network.arrays[port]

    def _run(self, graph: str) -> None:
        self.graphs[graph].enqueue(self.network.device.stream)

    def extract(self, crop: NDArray[np.float32]) -> None:
        """Features of a crop (H, W, 3); the transformer's query side included."""
        net = self.network
        with net.device.current():
            net.fill("crop", crop.transpose(2, 0, 1))
            self._run("backbone")
            if "transformer_query" in self.graphs:
                self._run("transformer_query")

    def store(self, sample: Sample[EngineTarget]) -> None:
        """The extracted features into a slot; both branches brought up to date."""
        net = self.network
        chosen = np.zeros(net.capacity, np.float32)
        chosen[sample.slot] = 1
        with net.device.current():
            net.fill("mask", sample.mask)
            self._run("label_encoder")
            if "few_shot_start" in self.graphs:
                self._learn(sample.slot, sample.weights, sample.steps)
            if "memory_update" in self.graphs:
                self._remember(sample.slot, chosen)

    def segment(self) -> NDArray[np.float32]:
        """Logits (H, W), fp32; waits for them."""
        net = self.network
        with net.device.current(), net.clock.stage("device"):
            if "memory_read" in self.graphs:
                self._run("memory_read")
            self._run("decoder")
            net.device.download(net.logits, net.arrays["logits"])
            net.wait()
        logits: NDArray[np.float32] = net.logits[0, 0]
        return logits

    def _learn(self, slot: int, sample_weights: NDArray[np.float32], steps: int) -> None:
        """Steepest descent over the stored samples; weights of slots without one are zero."""
        net, arrays = self.network, self.arrays
        for bank, source in (("z_ind", "x_ind"), ("E_ind_all", "E_ind"), ("W_all", "W")):
            net.device.copy(slot_of(arrays[bank], slot), self._array(source))
        weights = np.zeros(net.capacity, np.float32)
        weights[: len(sample_weights)] = sample_weights
        net.fill("sample_weights", weights)
        self._run("few_shot_start" if steps == INITIAL_STEPS else "few_shot_update")
        net.device.copy(arrays["omega"], net.arrays["omega_next"])

    def _remember(self, slot: int, chosen: NDArray[np.float32]) -> None:
        """Both self-attentions brought up to date before the slot's own features are overwritten."""
        net, arrays = self.network, self.arrays
        net.fill("slot", chosen)
        self._run("memory_update")
        for bank in CARRIED:
            net.device.copy(arrays[bank], net.arrays[f"{bank}_next"])
        for bank, source in (("z_all", "x_tra"), ("key_all", "key"), ("E_tra_all", "E_tra")):
            net.device.copy(slot_of(arrays[bank], slot), self._array(source))
        net.device.copy(slot_of(arrays["valid"], slot), net.one)

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the memory, the filter and the last features."""
        with self.network.device.current():
            arrays = {name: fetch(self.network.device, array) for name, array in self.arrays.items()}
        return arrays

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        with self.network.device.current():
            for name, array in self.arrays.items():
                put(self.network.device, array, state[name])
