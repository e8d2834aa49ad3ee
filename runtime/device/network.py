"""A backend's engines over torch tensors: arrays by name, calls of fixed address, the few-shot learner's loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...errors import BundleError, SettingsError
from ..manifest import Geometry, Port
from ..settings import INITIAL_STEPS, UPDATE_STEPS, Settings
from .engines.protocol import UNUSED, DeviceArray, DeviceEngine, DType
from .replay import TORCH_TYPES, Lane, Replay

_TYPES: dict[torch.dtype, DType] = {torch.float32: "float32", torch.float16: "float16"}


def device_array(tensor: Tensor) -> DeviceArray:
    """A contiguous tensor as engines take it."""
    assert tensor.is_contiguous()
    return DeviceArray(tensor.data_ptr(), tuple(tensor.shape), _TYPES[tensor.dtype], tensor)


class DeviceNetwork:
    """Engines by the names of their graphs, and what their ports say of the arrays between them.

    Attributes:
        capacity: slots of the memory.
        capturable: whether calls may be captured in a CUDA graph.
        compiled: whether what lies between the engines is compiled, see `frame_work`.
        overlapped: whether an update's few-shot steps run beside its `memory_update`, on a stream of their own; only
            for engines that compute on torch's current stream and share no memory.
        alignment: bytes; TensorRT takes no address that is not a multiple of 256.

    Raises:
        BundleError: graphs do not fit one another.
        SettingsError: more memory is asked for than the engines have.
    """

    def __init__(self, engines: Mapping[str, DeviceEngine], geometry: Geometry, settings: Settings, lane: Lane) -> None:
        self.engines = {name: e for name, e in engines.items() if name not in UNUSED[settings.branches]}
        self.geometry = geometry
        self.settings = settings
        self.lane = lane
        lane.follow()
        self.alignment = 256 if lane.device.type == "cuda" else 1
        self.compiled = False
        self.overlapped = False
        self.capturable = all(engine.capturable for engine in self.engines.values())
        self.ports: dict[str, Port] = {}
        for graph, engine in self.engines.items():
            for name, port in engine.ports.items():
                if self.ports.setdefault(name, port) != port:
                    raise BundleError(f"graph {graph!r}: port {name!r} is {port}, elsewhere {self.ports[name]}")
        capacities = {self.ports[n].shape[1] for n in ("z_ind", "z_all") if n in self.ports}
        self.capacity = int(max(capacities))
        if settings.memory > self.capacity:
            raise SettingsError(
                f"memory is {settings.memory}: the engines have {self.capacity} slots; ask for at most that, or build "
                "them again with --memory"
            )

    def tensor(self, port: str, batch: int) -> Tensor:
        """Zeros of a port's shape and type for so many objects."""
        record = self.ports[port]
        shape = [batch if isinstance(n, str) else n for n in record.shape]
        return torch.zeros(shape, dtype=TORCH_TYPES[record.dtype], device=self.lane.device)

    def bind(self, graph: str, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        """A graph tied to tensors, all of one batch; the batch is divided where one call cannot carry it."""
        engine = self.engines[graph]
        chosen = {name: tensors[name] for name in engine.ports}
        batch = next(iter(chosen.values())).shape[0]
        most = engine.max_batch or batch
        calls = [
            self._bind_part(engine, {name: t[first : first + most] for name, t in chosen.items()})
            for first in range(0, batch, most)
        ]

        def enqueue() -> None:
            for call in calls:
                call()

        return enqueue

    def _bind_part(self, engine: DeviceEngine, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        """One call. What does not begin at a multiple of `alignment`, such as a later object's flags, is copied."""
        alignment = 1 if engine.in_place else self.alignment
        staged = {n: (t, torch.empty_like(t)) for n, t in tensors.items() if t.data_ptr() % alignment}
        placed = {**tensors, **{name: copy for name, (_, copy) in staged.items()}}
        bound = engine.bind({name: device_array(tensor) for name, tensor in placed.items()})

        def enqueue() -> None:
            for tensor, copy in staged.values():
                copy.copy_(tensor)
            bound.enqueue(self.lane.handle)
            for tensor, copy in staged.values():
                tensor.copy_(copy)

        return enqueue


_WHOLE_LOOPS = {INITIAL_STEPS: "few_shot_start", UPDATE_STEPS: "few_shot_update"}
"""Graphs of a whole loop, which some backends have."""
SAMPLES = ("z_ind", "E_ind_all", "W_all", "sample_weights")


class FewShotLoop:
    """Eq. 6: so many steps of steepest descent from the filter that lies in `omega`, in place.

    Args:
        network: the engines.
        tensors: `SAMPLES` and `omega`.
        steps: known in advance, so that the whole loop can be captured.
    """

    def __init__(self, network: DeviceNetwork, tensors: Mapping[str, Tensor], steps: int) -> None:
        self.steps = steps
        self.omega = tensors["omega"]
        self.omega_next = network.tensor("omega_next", self.omega.shape[0])
        whole = _WHOLE_LOOPS[steps]
        if whole in network.engines:
            self._calls = [network.bind(whole, {**tensors, "omega_next": self.omega_next})]
        else:
            self._calls = self._bind_steps(network, tensors)

    def _bind_steps(self, network: DeviceNetwork, tensors: Mapping[str, Tensor]) -> list[Callable[[], None]]:
        weights, residual, residual_next = (
            network.tensor(port, self.omega.shape[0]) for port in ("weights", "residual", "residual_next")
        )
        known = {**tensors, "weights": weights}
        begin = network.bind("few_shot_residual", {**known, "residual": residual})
        there = {"omega": self.omega, "residual": residual}
        back = {"omega": self.omega_next, "residual": residual_next}
        # Input and output take turns: a graph never writes what it reads.
        turns = [
            network.bind("few_shot_step", {**known, **a, **{f"{name}_next": t for name, t in b.items()}})
            for a, b in ((there, back), (back, there))
        ]
        return [begin, *(turns[step % 2] for step in range(self.steps))]

    def __call__(self) -> None:
        """Enqueue all steps."""
        for call in self._calls:
            call()
        if len(self._calls) == 1 or self.steps % 2:
            self.omega.copy_(self.omega_next)


class FewShotLearner:
    """The loop over samples of its own, kept for all objects to come: one graph for every new object's first filter."""

    def __init__(self, network: DeviceNetwork, batch: int, steps: int) -> None:
        self.tensors = {port: network.tensor(port, batch) for port in (*SAMPLES, "omega")}
        self._loop = FewShotLoop(network, self.tensors, steps)
        self._replay = Replay(network.lane, network.lane.scratch(), capturable=network.capturable)

    def learn(self, x_ind: Tensor, E_ind: Tensor, W: Tensor) -> Tensor:
        """Features and encodings of the objects' first frames (B, h*w, ...) -> omega, valid until the next call."""
        tensors = self.tensors
        for port, value in (("z_ind", x_ind), ("E_ind_all", E_ind), ("W_all", W)):
            tensors[port][:, 0].copy_(value)
        tensors["sample_weights"][:, 0].fill_(1)
        tensors["omega"].zero_()
        self._replay(self._loop)
        return tensors["omega"]
