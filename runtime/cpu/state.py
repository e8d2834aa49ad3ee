"""What objects on the CPU must have stored to go on exactly alike; what several of them hold is written once."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .lent import Lent
from .memory import Features, Look, Memory
from .onnxruntime_engine import Buffer
from .pair_terms import Term

if TYPE_CHECKING:
    from .network import OnnxNetwork, OnnxTarget

State = dict[str, NDArray[Any]]
_FEATURES = ("query", "C", "D")


class StateWriter:
    """Looks and memories are numbered as they are met; "lookK.z" is found in the state that met it."""

    def __init__(self) -> None:
        self._looks: dict[Look, int] = {}
        self._features: set[int] = set()
        self._memories: dict[int, int] = {}

    def write(self, target: OnnxTarget) -> State:
        """Copies of all that an object holds and no state before has."""
        memory, features = target.memory, target.features
        assert memory is not None and features is not None
        state = {name: array[:, : memory.stored].copy() for name, array in target.samples.items()}
        state["omega"] = target.omega.array.copy()
        state |= {f"E_tra{slot}": buffer.array.copy() for slot, buffer in enumerate(target.E_tra)}
        number = self._look(features.look, state)
        state["features"] = np.array(number)
        if number not in self._features:
            self._features.add(number)
            state |= {f"features{number}.{name}": features.lent[name].array.copy() for name in _FEATURES}
            state[f"features{number}.x_ind"] = features.x_ind["x_ind"].array.copy()
        state["memory"] = np.array(self._memory(memory, state))
        return state

    def _look(self, look: Look, state: State) -> int:
        if look not in self._looks:
            self._looks[look] = len(self._looks)
            state |= {f"look{self._looks[look]}.{name}": buffer.array.copy() for name, buffer in look.named().items()}
        return self._looks[look]

    def _memory(self, memory: Memory, state: State) -> int:
        if id(memory) in self._memories:
            return self._memories[id(memory)]
        number = self._memories[id(memory)] = len(self._memories)
        name = f"memory{number}"
        state[f"{name}.z_ind"] = memory.z_ind()
        state[f"{name}.looks"] = np.array([self._look(frame.look, state) for frame in memory.frames], np.int64)
        state[f"{name}.terms"] = memory.terms.slots
        for i, frame in enumerate(memory.frames):
            sums = {"C": frame.C, "D": frame.D, "key_cross": frame.key_cross}
            state |= {f"{name}.frame{i}.{port}": buffer.array.copy() for port, buffer in sums.items()}
        return number


class StateReader:
    """The reverse of `StateWriter`."""

    def __init__(self, network: OnnxNetwork, states: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        self._network = network
        self._all = ChainMap(*(dict(state) for state in states))
        self._looks: dict[int, Look] = {}
        self._x_ind: dict[Look, Lent] = {}
        self._features: dict[int, Features] = {}
        self._memories: dict[int, Memory] = {}
        self._terms: dict[tuple[Look, Look], Term] = {}

    def read(self, state: Mapping[str, NDArray[Any]]) -> OnnxTarget:
        """A target as it was."""
        target = self._network.new_target()
        target.features = self._features_of(int(state["features"]))
        memory = self._memory(int(state["memory"]))
        target.move(memory)
        for name, array in target.samples.items():
            array[:, : memory.stored] = state[name]
        np.copyto(target.omega.array, state["omega"])
        target.E_tra = [Buffer(np.array(state[f"E_tra{slot}"], order="C")) for slot in range(len(memory.frames))]
        return target

    def _look(self, number: int) -> Look:
        if number not in self._looks:
            look = self._looks[number] = self._network.new_look()
            for name, buffer in look.named().items():
                np.copyto(buffer.array, self._all[f"look{number}.{name}"])
        return self._looks[number]

    def _features_of(self, number: int) -> Features:
        if number not in self._features:
            features = self._features[number] = self._network.new_features(self._look(number))
            for name in _FEATURES:
                np.copyto(features.lent[name].array, self._all[f"features{number}.{name}"])
            np.copyto(features.x_ind["x_ind"].array, self._all[f"features{number}.x_ind"])
        return self._features[number]

    def _memory(self, number: int) -> Memory:
        if number in self._memories:
            return self._memories[number]
        memory, name = Memory(self._network), f"memory{number}"
        z_ind = self._all[f"{name}.z_ind"]
        memory.stored = z_ind.shape[1]
        looks = [self._look(look) for look in self._all[f"{name}.looks"].tolist()]
        if z_ind.size:
            memory.x_ind = [self._x_ind_of(z_ind[:, i], looks[i] if looks else None) for i in range(memory.stored)]
        for i, look in enumerate(looks):
            frame = self._network.new_frame(look)
            for port in ("C", "D", "key_cross"):
                np.copyto(getattr(frame, port).array, self._all[f"{name}.frame{i}.{port}"])
            memory.frames.append(frame)
        for row, column, apart in self._all[f"{name}.terms"].tolist():
            memory.terms.keep(row, column, self._term(memory, row, column, bool(apart)))
        self._memories[number] = memory
        return memory

    def _x_ind_of(self, x_ind: NDArray[np.float32], look: Look | None) -> Lent:
        """A slot's x_ind; memories that have a look together have it once."""
        if look is not None and look in self._x_ind:
            return self._x_ind[look]
        lent = self._network.new_x_ind()
        np.copyto(lent["x_ind"].array, x_ind)
        if look is not None:
            self._x_ind[look] = lent
        return lent

    def _term(self, memory: Memory, row: int, column: int, apart: bool) -> Term:
        """Compute a kept term as it once was, to the bit: from the same frames with the same graph."""
        net, new, other = self._network, memory.frames[row], memory.frames[column]
        if (new.look, other.look) in self._terms:
            return self._terms[new.look, other.look]
        if apart:
            term = net.pair_terms(other.look, new.look)[1]
        else:
            term = net.terms.new_term(apart=False)
            sums = {"C": other.C, "D": other.D, "C_new": new.C, "D_new": new.D}
            leaving = {"C_old": net.zeros["C"], "D_old": net.zeros["D"]}
            outputs = {**net.renewed(net.buffer("key_cross")), "C_term": term.sums["C"], "D_term": term.sums["D"]}
            inputs = {**other.look.named(), **new.look.named("_new"), **sums, **leaving}
            net.engines["memory_swap"].run(inputs, outputs)
        self._terms[new.look, other.look] = term
        return term
