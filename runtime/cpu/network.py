"""The network as a bundle's ONNX graphs on the CPU.

The memory's side of the transformer is kept up to date incrementally (see the bundle's `memory_*` graphs): a frame that
enters costs one pass over the other frames, what it replaces is taken out as it was put in (`pair_terms`), and a query
meets finished keys. All buffers are allocated with an object's first frame; where a graph renews an array, input and
output take turns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..clock import StageClock
from ..settings import INITIAL_STEPS, Branches, Settings
from .onnxruntime_engine import Buffer, Runnable
from .pair_terms import TermPool


def used_graphs(bundle: Bundle, branches: Branches) -> tuple[str, ...]:
    """Names of the graphs that some branches need."""
    unused = {
        "both": (),
        "transduction": ("few_shot_residual", "few_shot_step"),
        "induction": ("transformer_query", *_CHANGES, "memory_encode", "memory_read"),
    }[branches]
    return tuple(name for name in bundle.manifest.graphs if name not in unused)


class OnnxNetwork:
    """A bundle's graphs, loaded (those of `used_graphs`), and the buffers that all objects share."""

    def __init__(self, bundle: Bundle, settings: Settings, clock: StageClock, engines: Mapping[str, Runnable]) -> None:
        self.settings = settings
        self.clock = clock
        self.engines = dict(engines)
        records = bundle.manifest.graphs.values()
        self._shapes = {port.name: port.shape for record in records for port in (*record.inputs, *record.outputs)}
        self.crop, self.mask, self.logits = self.buffer("crop"), self.buffer("mask"), self.buffer("logits")
        self.layers = {name: self.buffer(name) for name in ("layer1", "layer2", "layer3", "layer4")}
        self.E_tra_star = self.buffer("E_tra_star")
        self.E_tra_unused = self.buffer("E_tra")
        self.numerator, self.denominator = self.buffer("numerator"), self.buffer("denominator")
        self.denominator_sum = np.zeros_like(self.denominator.array)
        self.spare_C, self.spare_D = self.buffer("C"), self.buffer("D")
        self.spare_C_new, self.spare_D_new = self.buffer("C"), self.buffer("D")
        # Not through this network: one that holds itself keeps its engines until the collector comes.
        self.terms = TermPool(*(partial(Buffer.zeros, *self.shape(port)) for port in ("C", "D")))
        self.spare_term = self.terms.new_term(0, 0)
        self.omega_next = self.buffer("omega")
        _, D, _, n = self.shape("residual")
        self.residuals = [np.zeros(settings.memory * D * n, np.float32) for _ in range(3)]

    def shape(self, port: str) -> tuple[int, ...]:
        """A port's shape for one object."""
        return tuple(1 if isinstance(n, str) else n for n in self._shapes[port])

    def buffer(self, port: str) -> Buffer:
        """A new buffer of a port's shape for one object."""
        return Buffer.zeros(*self.shape(port))

    def renewed(self, key_cross: Buffer) -> dict[str, Buffer]:
        """Where the graphs that change the memory put two frames' sums, and the keys of the one that stays."""
        return {
            "C_next": self.spare_C,
            "D_next": self.spare_D,
            "C_new_next": self.spare_C_new,
            "D_new_next": self.spare_D_new,
            "key_cross": key_cross,
        }

    def new_target(self) -> OnnxTarget:
        """Room for one more object."""
        return OnnxTarget(self)


class OnnxTarget:
    """One object's features, memory and filter; see `network.Target`."""

    def __init__(self, network: OnnxNetwork) -> None:
        self.network = network
        branches = network.settings.branches
        self.transduction = branches != "induction"
        self.induction = branches != "transduction"
        new = network.buffer
        self.x_tra, self.x_ind, self.query, self.key = new("x_tra"), new("x_ind"), new("query"), new("key")
        self.C, self.D = new("C"), new("D")
        self.omega = new("omega")
        self.stored = 0
        # One entry per stored frame, of the transduction branch.
        self.frames: list[dict[str, Buffer]] = []
        self.terms = network.terms.new_user()
        # The few-shot learner reads all samples as one array.
        capacity = network.settings.memory
        _, _, n, C = network.shape("z_ind")
        D = network.shape("E_ind_all")[-1]
        self.samples = {
            "z_ind": np.zeros((1, capacity, n, C if self.induction else 0), np.float32),
            "E_ind_all": np.zeros((1, capacity, n, D), np.float32),
            "W_all": np.zeros((1, capacity, n, D), np.float32),
        }

    def extract(self, crop: NDArray[np.float32]) -> None:
        """Features of a crop (H, W, 3); the transformer's query side included."""
        net = self.network
        with net.clock.stage("backbone"):
            np.copyto(net.crop.array[0], crop.transpose(2, 0, 1))
            outputs = {**net.layers, "x_tra": self.x_tra, "x_ind": self.x_ind}
            net.engines["backbone"].run({"crop": net.crop}, outputs)
        if self.transduction:
            with net.clock.stage("query"):
                outputs = {"query": self.query, "key": self.key, "C": self.C, "D": self.D}
                net.engines["transformer_query"].run({"x_tra": self.x_tra}, outputs)

    def start(self, mask: NDArray[np.float32]) -> None:
        """The memory's first frame, and a filter learned from it."""
        self.store(0, mask, np.ones(1, np.float32), INITIAL_STEPS)

    def store(self, slot: int, mask: NDArray[np.float32], sample_weights: NDArray[np.float32], steps: int) -> None:
        """The extracted features into a slot; both branches brought up to date."""
        replaced = slot < self.stored
        if not replaced:
            self.stored += 1
            if self.transduction:
                ports = ("z", "key", "C", "D", "key_cross", "E_tra")
                self.frames.append({name: self.network.buffer(name) for name in ports})
        self._encode_label(slot, mask)
        if self.induction:
            with self.network.clock.stage("few_shot"):
                np.copyto(self.samples["z_ind"][:, slot], self.x_ind.array)
                self._learn(sample_weights, steps)
        if self.transduction:
            with self.network.clock.stage("memory_update"):
                self._remember(slot, replaced)

    def segment(self) -> NDArray[np.float32]:
        """Logits (H, W)."""
        net = self.network
        if self.transduction:
            with net.clock.stage("memory_read"):
                self._read()
        with net.clock.stage("decoder"):
            inputs = {"E_tra_star": net.E_tra_star, "x_ind": self.x_ind, "omega": self.omega, **net.layers}
            net.engines["decoder"].run(inputs, {"logits": net.logits})
        logits: NDArray[np.float32] = net.logits.array[0, 0]
        return logits

    def _encode_label(self, slot: int, mask: NDArray[np.float32]) -> None:
        net = self.network
        with net.clock.stage("label_encoder"):
            np.copyto(net.mask.array[0, 0], mask)
            outputs = {
                "E_ind": Buffer(self.samples["E_ind_all"][:, slot]),
                "W": Buffer(self.samples["W_all"][:, slot]),
                "E_tra": self.frames[slot]["E_tra"] if self.transduction else net.E_tra_unused,
            }
            net.engines["label_encoder"].run({"mask": net.mask}, outputs)

    def _learn(self, sample_weights: NDArray[np.float32], steps: int) -> None:
        """Steps of steepest descent over the stored samples."""
        net = self.network
        samples = {name: Buffer(array[:, : self.stored]) for name, array in self.samples.items()}
        weights, residual, residual_next = (self._per_sample(array) for array in net.residuals)
        inputs = {**samples, "sample_weights": Buffer(sample_weights[None].copy()), "omega": self.omega}
        net.engines["few_shot_residual"].run(inputs, {"weights": weights, "residual": residual})
        step = {"z_ind": samples["z_ind"], "weights": weights}
        for _ in range(steps):
            outputs = {"omega_next": net.omega_next, "residual_next": residual_next}
            net.engines["few_shot_step"].run({**step, "omega": self.omega, "residual": residual}, outputs)
            self.omega, net.omega_next = net.omega_next, self.omega
            residual, residual_next = residual_next, residual

    def _per_sample(self, array: NDArray[np.float32]) -> Buffer:
        """The front of an array, shaped (1, D, N, h*w)."""
        _, D, _, n = self.network.shape("residual")
        return Buffer(array[: D * self.stored * n].reshape(1, D, self.stored, n))

    def _remember(self, slot: int, replaced: bool) -> None:
        """Add the extracted frame's terms to all others' attention and theirs to its own; take the old frame's out."""
        net, frame = self.network, self.frames[slot]
        new = {"z_new": self.x_tra, "key_new": self.key}
        for i, other in enumerate(self.frames):
            if i == slot:
                continue
            old = {"z_old": frame["z"], "key_old": frame["key"]} if replaced else {}
            outputs = net.renewed(other["key_cross"])
            engine = net.engines["memory_replace" if replaced else "memory_add"]
            term = self.terms.renew(i, slot, replaced) if "memory_swap" in net.engines else None
            if term is not None:
                engine = net.engines["memory_swap"]
                old = {"C_old": term.C, "D_old": term.D}
                outputs |= {"C_term": net.spare_term.C, "D_term": net.spare_term.D}
                term.C, net.spare_term.C = net.spare_term.C, term.C
                term.D, net.spare_term.D = net.spare_term.D, term.D
            inputs = {name: other[name] for name in ("z", "key", "C", "D")}
            engine.run({**inputs, **new, **old, "C_new": self.C, "D_new": self.D}, outputs)
            other["C"], net.spare_C = net.spare_C, other["C"]
            other["D"], net.spare_D = net.spare_D, other["D"]
            self.C, net.spare_C_new = net.spare_C_new, self.C
            self.D, net.spare_D_new = net.spare_D_new, self.D
        frame["z"], self.x_tra = self.x_tra, frame["z"]
        frame["key"], self.key = self.key, frame["key"]
        frame["C"], self.C = self.C, frame["C"]
        frame["D"], self.D = self.D, frame["D"]
        inputs = {name: frame[name] for name in ("z", "C", "D")}
        net.engines["memory_encode"].run(inputs, {"key_cross": frame["key_cross"]})

    def _read(self) -> None:
        """Eq. 5, frame by frame: a frame's affinities stay in the cache, the whole memory's would not."""
        net = self.network
        numerator, denominator = net.E_tra_star.array, net.denominator_sum
        outputs = {"numerator": net.numerator, "denominator": net.denominator}
        for i, frame in enumerate(self.frames):
            inputs = {"query": self.query, "key_cross": frame["key_cross"], "E_tra": frame["E_tra"]}
            net.engines["memory_read"].run(inputs, outputs)
            if i == 0:
                np.copyto(numerator, net.numerator.array)
                np.copyto(denominator, net.denominator.array)
            else:
                numerator += net.numerator.array
                denominator += net.denominator.array
        numerator /= denominator

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Copies of the memory, the filter and the last features."""
        current = {name: getattr(self, name).array for name in _CURRENT}
        samples = {name: array[:, : self.stored] for name, array in self.samples.items()}
        frames = {f"frame{i}.{name}": b.array for i, frame in enumerate(self.frames) for name, b in frame.items()}
        terms = {"terms": self.terms.slots}
        return {name: array.copy() for name, array in {**current, **samples, **frames, **terms}.items()}

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`."""
        for name in _CURRENT:
            np.copyto(getattr(self, name).array, state[name])
        self.stored = state["z_ind"].shape[1]
        for name, array in self.samples.items():
            array[:, : self.stored] = state[name]
        ports = ("z", "key", "C", "D", "key_cross", "E_tra")
        count = self.stored if self.transduction else 0
        self.frames = [
            {name: Buffer(np.array(state[f"frame{i}.{name}"], order="C")) for name in ports} for i in range(count)
        ]
        for row, column in state["terms"].tolist():
            self._restore_term(row, column)

    def _restore_term(self, row: int, column: int) -> None:
        """Compute a kept term as it once was, to the bit: from the same frames with the same graph."""
        net, new, other = self.network, self.frames[row], self.frames[column]
        term = self.terms.renew(column, row, replaced=False)
        if term is None:
            return
        frames = {"z": other["z"], "key": other["key"], "z_new": new["z"], "key_new": new["key"]}
        sums = {"C": other["C"], "D": other["D"], "C_new": new["C"], "D_new": new["D"]}
        outputs = {**net.renewed(net.buffer("key_cross")), "C_term": term.C, "D_term": term.D}
        leaving = {"C_old": net.spare_term.C, "D_old": net.spare_term.D}
        net.engines["memory_swap"].run({**frames, **sums, **leaving}, outputs)


_CHANGES = ("memory_add", "memory_replace", "memory_swap")
_CURRENT = ("x_tra", "x_ind", "query", "key", "C", "D", "omega")
