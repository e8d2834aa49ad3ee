"""The network as a bundle's ONNX graphs on the CPU.

The memory's side of the transformer is kept up to date incrementally (see the bundle's `memory_*` graphs): a frame that
enters costs one pass over the other frames, what it replaces is taken out as it was put in (`pair_terms`), and a query
meets finished keys. What depends on a frame and its window alone is computed and held once for all objects (`memory`).
All buffers are allocated with an object's first frames; where a graph renews an array, input and output take turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from ..clock import StageClock
from ..settings import Branches, Settings, Share
from ..tracking.network import Sample
from .lent import Lent, Pool
from .memory import Entry, Features, FrameEntry, Look, Memory, StackedFeatures, StoredFrame
from .memory_read import SEVERAL, MemoryReader
from .onnxruntime_engine import Buffer, Runnable
from .pair_terms import Term, TermPool
from .state import StateReader, StateWriter


def used_graphs(bundle: Bundle, branches: Branches, share: Share) -> tuple[str, ...]:
    """Names of the graphs that some branches need, and objects that share."""
    unused = {
        "both": (),
        "transduction": ("few_shot_residual", "few_shot_step"),
        "induction": ("transformer_query", *_CHANGES, "memory_encode", "memory_read", SEVERAL),
    }[branches]
    if share == "exact":
        unused += (SEVERAL,)
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
        self.E_tra_unused = self.buffer("E_tra")
        self.reader = MemoryReader(self)
        self.zeros = {"C": self.buffer("C"), "D": self.buffer("D")}
        self.spare = {name: self.buffer(name.partition("_")[0]) for name in _RENEWED}
        self._looks = self._pool(z="x_tra", key="key")
        self._x_ind = self._pool(x_ind="x_ind")
        self._features = self._pool(query="query", C="C", D="D")
        self._sum_pool = self._pool(C="C", D="D")
        self._key_unused = self.buffer("key_cross")
        self.terms = TermPool(self._sum_pool, sum(buffer.array.nbytes for buffer in self.zeros.values()))
        self.omega_next = self.buffer("omega")
        _, _, *tokens = self.shape("z_ind")
        self.z_ind = StackedFeatures((1, settings.memory, *tokens))
        _, D, _, n = self.shape("residual")
        self.residuals = [np.zeros(settings.memory * D * n, np.float32) for _ in range(3)]

    def shape(self, port: str) -> tuple[int, ...]:
        """A port's shape for one object."""
        return tuple(1 if isinstance(n, str) else n for n in self._shapes[port])

    def buffer(self, port: str) -> Buffer:
        """A new buffer of a port's shape for one object."""
        return Buffer.zeros(*self.shape(port))

    def _pool(self, **ports: str) -> Pool:
        """Sets of buffers by their shapes alone: a network that held itself would keep its engines."""
        shapes = {name: self.shape(port) for name, port in ports.items()}
        return Pool(lambda: {name: Buffer.zeros(*shape) for name, shape in shapes.items()})

    def new_frame(self, look: Look) -> StoredFrame:
        """Room for one more frame of a memory."""
        return StoredFrame(look, self.buffer("C"), self.buffer("D"), self.buffer("key_cross"))

    def new_look(self) -> Look:
        """Room for what the transformer keeps of a frame."""
        return Look(self._looks.lend())

    def new_features(self, look: Look | None = None) -> Features:
        """Room for what a crop gives."""
        return Features(look or self.new_look(), self.new_x_ind(), self._features.lend())

    def new_x_ind(self) -> Lent:
        """Room for what the target model sees of a crop."""
        return self._x_ind.lend()

    def new_target(self) -> OnnxTarget:
        """Room for one more object."""
        return OnnxTarget(self)

    def extract(self, targets: Sequence[OnnxTarget], crop: NDArray[np.float32]) -> None:
        """Features of a crop (H, W, 3); the transformer's query side included."""
        for target in targets:
            # What nobody else holds is used again.
            target.features = None
        features = self.new_features()
        x_tra, lent = features.look.lent["z"], features.lent
        with self.clock.stage("backbone"):
            np.copyto(self.crop.array[0], crop.transpose(2, 0, 1))
            outputs = {**self.layers, "x_tra": x_tra, "x_ind": features.x_ind["x_ind"]}
            self.engines["backbone"].run({"crop": self.crop}, outputs)
        if self.settings.branches != "induction":
            with self.clock.stage("query"):
                outputs = {"key": features.look.lent["key"], **{name: lent[name] for name in ("query", "C", "D")}}
                self.engines["transformer_query"].run({"x_tra": x_tra}, outputs)
        for target in targets:
            target.features = features

    def store(self, samples: Sequence[Sample[OnnxTarget]]) -> None:
        """Extracted features into slots of memories; both branches brought up to date."""
        together = self._together(samples)
        entries: dict[Look, tuple[Features, list[Entry]]] = {}
        for group in together:
            features, memory = group[0].target.features, group[0].target.memory
            assert features is not None and memory is not None
            entry = Entry(memory, group[0].slot, memory.open(group[0].slot, features))
            entries.setdefault(features.look, (features, []))[1].append(entry)
        for sample in samples:
            sample.target.take_label(sample)
            if self.settings.branches != "transduction":
                with self.clock.stage("few_shot"):
                    sample.target.learn(sample)
        if self.settings.branches != "induction":
            with self.clock.stage("memory_update"):
                for features, those in entries.values():
                    FrameEntry(self, features, those).run()

    def _together(self, samples: Sequence[Sample[OnnxTarget]]) -> list[list[Sample[OnnxTarget]]]:
        """Samples by memory: objects that begin with one crop get one, those that part from others get their own."""
        groups: dict[tuple[int, ...], list[Sample[OnnxTarget]]] = {}
        for sample in samples:
            features = sample.target.features
            assert features is not None
            groups.setdefault((id(sample.target.memory), features.look.number, sample.slot), []).append(sample)
        for group in groups.values():
            memory = group[0].target.memory
            if memory is not None and len(memory.users) == len(group):
                continue
            own = Memory(self) if memory is None else memory.copy()
            for sample in group:
                sample.target.move(own)
        return list(groups.values())

    def segment(self, targets: Sequence[OnnxTarget]) -> Iterator[NDArray[np.float32]]:
        """Logits (H, W) of each in turn, of the crop that was extracted last; valid until the next."""
        if self.settings.branches != "induction":
            read = self.reader.read(targets)
        else:
            read = itertools.repeat(None, len(targets))
        for target, _ in zip(targets, read, strict=True):
            assert target.features is not None
            with self.clock.stage("decoder"):
                own = {"E_tra_star": self.reader.E_tra_star, "x_ind": target.features.x_ind["x_ind"]}
                inputs = {**own, "omega": target.omega, **self.layers}
                self.engines["decoder"].run(inputs, {"logits": self.logits})
            yield self.logits.array[0, 0]

    def renewed(self, key_cross: Buffer) -> dict[str, Buffer]:
        """Where the graphs that change the memory put two frames' sums, and the keys of the one that stays."""
        return {**self.spare, "key_cross": key_cross}

    def encode(self, frame: StoredFrame) -> None:
        """A stored frame's keys from its sums."""
        inputs = {"z": frame.look.lent["z"], "C": frame.C, "D": frame.D}
        self.engines["memory_encode"].run(inputs, {"key_cross": frame.key_cross})

    def pair_terms(self, look: Look, new: Look) -> tuple[Lent, Term]:
        """What a frame takes from a new one, and the new one from it: the graph that adds them, from nothing."""
        taken, given = self._sum_pool.lend(), self.terms.new_term(apart=True)
        zeros = {"C": self.zeros["C"], "D": self.zeros["D"], "C_new": self.zeros["C"], "D_new": self.zeros["D"]}
        outputs = {
            **{f"{name}_next": taken[name] for name in ("C", "D")},
            **{f"{name}_new_next": given.sums[name] for name in ("C", "D")},
            "key_cross": self._key_unused,
        }
        self.engines["memory_add"].run({**look.named(), **new.named("_new"), **zeros}, outputs)
        return taken, given

    def state_dicts(self, targets: Sequence[OnnxTarget]) -> list[dict[str, NDArray[Any]]]:
        """Copies of memories, filters and last features; what several hold is in the first one's alone."""
        writer = StateWriter()
        return [writer.write(target) for target in targets]

    def restore(self, states: Sequence[Mapping[str, NDArray[Any]]]) -> list[OnnxTarget]:
        """Targets that go on from `state_dicts`, with what they held together."""
        reader = StateReader(self, states)
        return [reader.read(state) for state in states]


class OnnxTarget:
    """One object's labels and filter, and which features and memory are its own or others' too.

    Attributes:
        number: tells it from others of this process.
        features: of its crop; None before the first.
        memory: what it has stored; None before the first.
        E_tra: by slot.
        samples: E_ind and W, (1, N, h*w, D), which the few-shot learner reads as one array each.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        self.network = network
        self.number = next(_NUMBERS)
        self.features: Features | None = None
        self.memory: Memory | None = None
        self.omega = network.buffer("omega")
        self.E_tra: list[Buffer] = []
        _, _, n, D = network.shape("E_ind_all")
        capacity = network.settings.memory
        self.samples = {name: np.zeros((1, capacity, n, D), np.float32) for name in ("E_ind_all", "W_all")}

    def move(self, memory: Memory) -> None:
        """Have another memory from here on."""
        if self.memory is not None:
            self.memory.users.discard(self)
        self.memory = memory
        memory.users.add(self)

    def take_label(self, sample: Sample[OnnxTarget]) -> None:
        """Encodings of a mask crop into a slot."""
        net, slot = self.network, sample.slot
        transduction = net.settings.branches != "induction"
        if transduction and slot == len(self.E_tra):
            self.E_tra.append(net.buffer("E_tra"))
        with net.clock.stage("label_encoder"):
            np.copyto(net.mask.array[0, 0], sample.mask)
            outputs = {
                "E_ind": Buffer(self.samples["E_ind_all"][:, slot]),
                "W": Buffer(self.samples["W_all"][:, slot]),
                "E_tra": self.E_tra[slot] if transduction else net.E_tra_unused,
            }
            net.engines["label_encoder"].run({"mask": net.mask}, outputs)

    def learn(self, sample: Sample[OnnxTarget]) -> None:
        """Steps of steepest descent over the stored samples."""
        net, memory = self.network, self.memory
        assert memory is not None
        samples = {name: Buffer(array[:, : memory.stored]) for name, array in self.samples.items()}
        samples["z_ind"] = net.z_ind.of(memory)
        weights, residual, residual_next = (self._per_sample(array, memory.stored) for array in net.residuals)
        inputs = {**samples, "sample_weights": Buffer(sample.weights[None].copy()), "omega": self.omega}
        net.engines["few_shot_residual"].run(inputs, {"weights": weights, "residual": residual})
        step = {"z_ind": samples["z_ind"], "weights": weights}
        for _ in range(sample.steps):
            outputs = {"omega_next": net.omega_next, "residual_next": residual_next}
            net.engines["few_shot_step"].run({**step, "omega": self.omega, "residual": residual}, outputs)
            self.omega, net.omega_next = net.omega_next, self.omega
            residual, residual_next = residual_next, residual

    def _per_sample(self, array: NDArray[np.float32], stored: int) -> Buffer:
        """The front of an array, shaped (1, D, N, h*w)."""
        _, D, _, n = self.network.shape("residual")
        return Buffer(array[: D * stored * n].reshape(1, D, stored, n))


_NUMBERS = itertools.count()
_CHANGES = ("memory_add", "memory_replace", "memory_swap")
_RENEWED = ("C_next", "D_next", "C_new_next", "D_new_next")
