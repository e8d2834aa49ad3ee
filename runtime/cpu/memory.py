"""What is stored of past frames, whatever object they are read for, and how a frame enters it.

A frame that several memories take, beside a frame that they hold already, gives both frames' attention terms once; each
memory adds them to its own sums in its own order, so that the numbers are those that it would have alone.
"""

from __future__ import annotations

import itertools
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .lent import Lent
from .onnxruntime_engine import Buffer
from .pair_terms import PairTerms, Term

if TYPE_CHECKING:
    from .network import OnnxNetwork, OnnxTarget

_NUMBERS = itertools.count()


class Look:
    """What a stored frame is to the transformer: z and key. It never changes; memories of several objects hold it.

    Attributes:
        number: tells it from others of this process.
    """

    __slots__ = ("lent", "number")

    def __init__(self, lent: Lent) -> None:
        self.lent = lent
        self.number = next(_NUMBERS)

    def named(self, suffix: str = "") -> dict[str, Buffer]:
        """Its ports."""
        return {f"{name}{suffix}": self.lent[name] for name in ("z", "key")}


@dataclass(slots=True)
class Features:
    """What a crop gives: its look, x_ind, and query, C and D, the frame's attention to itself."""

    look: Look
    x_ind: Lent
    lent: Lent


@dataclass(slots=True)
class StoredFrame:
    """A frame in a memory: its look, the sums over all of the memory (C, D), and the keys that queries meet."""

    look: Look
    C: Buffer
    D: Buffer
    key_cross: Buffer

    def renew(self, changed: Mapping[str, Buffer], C: str, D: str) -> dict[str, Buffer]:
        """Take sums that a graph wrote; gives what they were in."""
        before = {C: self.C, D: self.D}
        self.C, self.D = changed[C], changed[D]
        return before


class Memory:
    """Frames by slot. Objects that always looked at the same frames have one memory.

    Attributes:
        frames: of the transduction branch.
        x_ind: of the induction branch, by slot; memories that took the same crop hold the same.
        stored: slots that are taken.
        users: objects whose memory it is.
        owners, values, changed: numbers of the objects whose E_tra lie side by side in `values`, by slot, and which
            slots took others since.
    """

    def __init__(self, network: OnnxNetwork) -> None:
        self._network = network
        self.frames: list[StoredFrame] = []
        self.terms = PairTerms(network.terms)
        self.x_ind: list[Lent] = []
        self.stored = 0
        self.users: weakref.WeakSet[OnnxTarget] = weakref.WeakSet()
        self.owners: tuple[int, ...] = ()
        self.values: list[Buffer] = []
        self.changed: set[int] = set()

    def copy(self) -> Memory:
        """The same for objects that go their own way from here on."""
        other = Memory(self._network)
        other.stored = self.stored
        other.x_ind = list(self.x_ind)
        other.terms = self.terms.copy()
        for frame in self.frames:
            own = self._network.new_frame(frame.look)
            for buffer, source in ((own.C, frame.C), (own.D, frame.D), (own.key_cross, frame.key_cross)):
                np.copyto(buffer.array, source.array)
            other.frames.append(own)
        return other

    def z_ind(self) -> NDArray[np.float32]:
        """x_ind of all slots side by side, (1, stored, h*w, C); C is 0 without the induction branch."""
        if not self.x_ind:
            return np.zeros((1, self.stored, self._network.shape("z_ind")[2], 0), np.float32)
        return np.stack([lent["x_ind"].array for lent in self.x_ind], 1)

    def open(self, slot: int, features: Features) -> bool:
        """Take x_ind into a slot; whether a frame was there."""
        if self._network.settings.branches != "transduction":
            self.x_ind[slot : slot + 1] = [features.x_ind]
        self.changed.add(slot)
        replaced = slot < self.stored
        self.stored = max(self.stored, slot + 1)
        return replaced


class StackedFeatures:
    """z_ind, as the few-shot learner reads it: x_ind of all slots in one array, of one memory after the other.

    Args:
        shape: (1, N, h*w, C).
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._array = np.zeros(shape, np.float32)
        # Of whom a slot is; one that is gone lets its buffers go.
        self._held: list[weakref.ref[Lent] | None] = [None] * shape[1]

    def of(self, memory: Memory) -> Buffer:
        """(1, stored, h*w, C), valid until it is asked for another's; only slots that differ are copied."""
        for slot, x_ind in enumerate(memory.x_ind):
            held = self._held[slot]
            if held is None or held() is not x_ind:
                np.copyto(self._array[:, slot], x_ind["x_ind"].array)
                self._held[slot] = weakref.ref(x_ind)
        return Buffer(self._array[:, : memory.stored])


@dataclass(slots=True)
class Entry:
    """A memory that takes a frame into a slot, in place of another frame or of none."""

    memory: Memory
    slot: int
    replaced: bool

    def others(self) -> list[tuple[int, StoredFrame]]:
        """The frames that stay, by slot."""
        return [(i, frame) for i, frame in enumerate(self.memory.frames) if i != self.slot]


@dataclass(slots=True)
class _Pair:
    """Both frames' terms: what the one that stays takes from the other, and what that takes from it."""

    taken: Lent
    given: Term


class FrameEntry:
    """One frame that enters several memories.

    Args:
        network: the graphs and the buffers that they share.
        features: of the frame.
        entries: memories whose other frames stay as they are meanwhile.
    """

    def __init__(self, network: OnnxNetwork, features: Features, entries: Sequence[Entry]) -> None:
        self._network, self._features, self._entries = network, features, entries
        # Pairs that several memories want, until the last of them had them.
        self._pairs: dict[tuple[Look, Look], _Pair] = {}
        self._wanted = Counter(frame.look for entry in entries for _, frame in entry.others())

    def run(self) -> None:
        """Add the frame's terms to all others' attention and theirs to its own; take replaced frames' out."""
        net = self._network
        for entry in self._entries:
            if not entry.replaced:
                entry.memory.frames.append(net.new_frame(self._features.look))
            frame = entry.memory.frames[entry.slot]
            np.copyto(frame.C.array, self._features.lent["C"].array)
            np.copyto(frame.D.array, self._features.lent["D"].array)
        shared = {look for look, count in self._wanted.items() if count > 1}
        for slot in range(max(len(entry.memory.frames) for entry in self._entries)):
            for entry in self._entries:
                if slot == entry.slot or slot >= len(entry.memory.frames):
                    continue
                if entry.memory.frames[slot].look in shared:
                    self._add_pair(entry, slot)
                else:
                    self._change(entry, slot)
        for entry in self._entries:
            frame = entry.memory.frames[entry.slot]
            frame.look = self._features.look
            net.encode(frame)

    def _change(self, entry: Entry, other: int) -> None:
        """One graph for both frames' sums, and the keys of the one that stays."""
        net, terms = self._network, entry.memory.terms
        frame, new = entry.memory.frames[other], entry.memory.frames[entry.slot]
        old = terms.take(other, entry.slot) if entry.replaced else None
        term, engine, leaving = None, "memory_add", {}
        outputs = net.renewed(frame.key_cross)
        if "memory_swap" in net.engines and (old or not entry.replaced) and terms.wanted(entry.slot, other, old):
            term, engine = net.terms.new_term(apart=False), "memory_swap"
            leaving = {f"{name}_old": old.sums[name] if old else net.zeros[name] for name in ("C", "D")}
            outputs |= {f"{name}_term": term.sums[name] for name in ("C", "D")}
        elif entry.replaced:
            engine, leaving = "memory_replace", new.look.named("_old")
        sums = {"C": frame.C, "D": frame.D, "C_new": new.C, "D_new": new.D}
        net.engines[engine].run({**frame.look.named(), **self._features.look.named("_new"), **sums, **leaving}, outputs)
        net.spare |= frame.renew(outputs, "C_next", "D_next") | new.renew(outputs, "C_new_next", "D_new_next")
        if term is not None:
            terms.keep(entry.slot, other, term)

    def _add_pair(self, entry: Entry, other: int) -> None:
        """Terms that other memories take too, added to this one's sums as its own graph would add them."""
        net, terms = self._network, entry.memory.terms
        frame, new = entry.memory.frames[other], entry.memory.frames[entry.slot]
        if entry.replaced:
            old = terms.take(other, entry.slot)
            leaving = old.sums if old is not None else self._pair(frame.look, new.look).taken
            frame.C.array -= leaving["C"].array
            frame.D.array -= leaving["D"].array
        else:
            old = None
        pair = self._pair(frame.look, self._features.look)
        for mine, term in ((frame, pair.taken), (new, pair.given.sums)):
            mine.C.array += term["C"].array
            mine.D.array += term["D"].array
        net.encode(frame)
        if "memory_swap" in net.engines and terms.wanted(entry.slot, other, old):
            terms.keep(entry.slot, other, pair.given)
        self._wanted[frame.look] -= 1
        if not self._wanted[frame.look]:
            self._pairs = {looks: pair for looks, pair in self._pairs.items() if looks[0] is not frame.look}

    def _pair(self, look: Look, new: Look) -> _Pair:
        if (look, new) not in self._pairs:
            self._pairs[look, new] = _Pair(*self._network.pair_terms(look, new))
        return self._pairs[look, new]
