"""The arrays of all objects of all videos, and the work over them, for one number of places; swapped as a whole.

A place holds an object or none. One without an object is computed too and read by nobody: its size is infinite, so
that its window shrinks to nothing and no value that it holds moves a window out of bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tracking.crop import OUTSIDE, whole_window
from .frame_work import after_engines, before_engines, compiled, cut_whole_frames, merge
from .geometry import DeviceWindow
from .network import DeviceNetwork
from .object_group import WINDOW, ObjectGroup
from .replay import Replay

_STATE: dict[str, tuple[int, torch.dtype]] = {
    "pos": (2, torch.float32),
    "scale": (1, torch.float32),
    "base_size": (2, torch.float32),
    "stored": (1, torch.long),
    "previous": (1, torch.long),
    **dict(zip(WINDOW, ((2, torch.long), (2, torch.long), (1, torch.long), (2, torch.long)), strict=True)),
}
"""Per object: columns and type. See `target_state.TargetState`, `sample_weights.SampleWeights`, `crop.Window`."""
_KEPT_PORTS = (
    *("z_all", "key_all", "C_all", "D_all", "key_cross_all", "E_tra_all", "valid"),
    *("z_ind", "E_ind_all", "W_all", "sample_weights", "omega"),
    *("x_tra", "x_ind", "key", "C", "D"),
)
"""What the next frame depends on: memories, filters, and the last frame's features."""
_SCRATCH_PORTS = (
    *("crop", "mask", "logits", "query", "E_tra_star", "slot", "E_ind", "W", "E_tra"),
    *(f"layer{i}" for i in (1, 2, 3, 4)),
)
FEATURES = ("backbone", "transformer_query")
"""Graphs of what depends on a frame and a window alone."""


def rounded(count: int) -> int:
    """Places for so many objects: 1, 2, 3, 4, 6, 8, 12, 16, ...: at most a third stands empty."""
    step = 1 << max(0, count.bit_length() - 2)
    return -(-count // step) * step


@dataclass(slots=True)
class Followed:
    """An object that is followed.

    Attributes:
        video: its video.
        object_id: in that video.
        place: of a layout.
        group: first place and number of places of those that appeared together.
        seen: n, frames seen; the first one included.
        given_at: n of the last frame whose mask was given.
        given: slots of corrections in its memory, the oldest first.
    """

    video: int
    object_id: int
    place: int
    group: tuple[int, int] = (0, 0)
    seen: int = 1
    given_at: int = 1
    given: tuple[int, ...] = ()


class Layout:
    """Arrays and bound engines for so many places. Nothing here is replaced; tables and arrays are written in place.

    Args:
        network: the engines.
        frames: where the videos' frames lie, (V, H, W, 3) uint8.
        places: B.
        widest: objects that one video may have.

    Attributes:
        tensors: state, memories and what is computed in between, the first axis counting places; `probability` are
            the merged maps (B, H, W) of the last frame.
        viewed: the same for the graphs of `FEATURES`; their ports count videos where all objects look at whole frames.
        labels: label maps (V, H, W) of the last frame.
    """

    def __init__(self, network: DeviceNetwork, frames: Tensor, places: int, widest: int) -> None:
        self.network, self.frames, self.places, self.widest = network, frames, places, widest
        device, (videos, *size) = network.lane.device, frames.shape[:3]
        self.size = (int(size[0]), int(size[1]))
        tensors = {n: torch.zeros(places, c, dtype=kind, device=device) for n, (c, kind) in _STATE.items()}
        tensors |= {p: network.tensor(p, places) for p in (*_KEPT_PORTS, *_SCRATCH_PORTS) if p in network.ports}
        # Slots are chosen by these weights, whether or not a filter is learned with them.
        for name in ("sample_weights", "kept"):
            tensors[name] = torch.zeros(places, network.capacity, device=device)
        # One more: the scores of an object that is not there.
        self._scores = torch.full((places + 1, *size), OUTSIDE, device=device)
        tensors |= {"scores": self._scores[:places], "probability": torch.zeros(places, *size, device=device)}
        tensors["base_size"].fill_(torch.inf)
        self.tensors: Mapping[str, Tensor] = tensors
        self.labels = torch.zeros(videos, *size, dtype=torch.uint8, device=device)
        self._members = torch.full((videos, widest), places, device=device)
        self._place, self._video_of = (torch.zeros(places, dtype=torch.long, device=device) for _ in range(2))
        self._id_table = torch.zeros(videos, widest + 1, dtype=torch.uint8, device=device)
        self._scratch = network.lane.scratch()
        self._spare: dict[str, Tensor] = {}
        self._groups: dict[tuple[int, int], ObjectGroup] = {}
        whole = network.settings.share == "frame"
        self._whole = whole_window(self.size, network.geometry.crop_size).values if whole else None
        # What depends on a frame and its window alone: one for each video where all objects look at the whole frame.
        graphs = [g for g in FEATURES if g in network.engines]
        ports = dict.fromkeys(p for g in graphs for p in network.engines[g].ports)
        spread = self._whole is not None and (places, videos) != (1, 1)
        of_videos = {p: network.tensor(p, videos) for p in ports if spread}
        self.viewed: Mapping[str, Tensor] = {**tensors, **of_videos}
        self._spread = [(tensors[p], features) for p, features in of_videos.items() if p != "crop"]
        self._features = [network.bind(g, self.viewed) for g in graphs]
        self._read = network.bind("memory_read", tensors) if "memory_read" in network.engines else None
        self._decode = network.bind("decoder", tensors)
        self._windows = DeviceWindow(*(tensors[name] for name in WINDOW))
        first = before_engines if self._whole is None else cut_whole_frames
        work: tuple[Callable[..., Any], ...] = (first, after_engines, merge)
        self._before, self._after, self._merge = map(compiled, work) if network.compiled else work
        self._replay = Replay(network.lane, self._scratch, capturable=network.capturable)

    def kept(self) -> dict[str, Tensor]:
        """What must survive when objects move to other places."""
        names = (*_STATE, "kept", "scores", "probability", *_KEPT_PORTS)
        return {name: self.tensors[name] for name in names if name in self.tensors}

    def take_over(self, other: Layout, moves: Sequence[tuple[int, int]]) -> None:
        """Copy objects from places of another layout to places of this one."""
        theirs = other.kept()
        for name, tensor in self.kept().items():
            for source, target in moves:
                tensor[target].copy_(theirs[name][source])

    def empty(self, place: int) -> None:
        """Leave a place without an object, as at first."""
        for tensor in self.kept().values():
            tensor[place].zero_()
        self.tensors["base_size"][place].fill_(torch.inf)
        # A group that it belonged to goes on, and divides by it.
        self.tensors["stride"][place].fill_(1)
        self.tensors["scores"][place].fill_(OUTSIDE)

    def tabulate(self, objects: Sequence[Followed]) -> None:
        """Which objects each video's merge takes, and where an object's map is found after it."""
        videos = len(self.labels)
        members, table = np.full((videos, self.widest), self.places), np.zeros((videos, self.widest + 1), np.uint8)
        place, owners, filled = np.zeros(self.places, np.int64), np.zeros(self.places, np.int64), [0] * videos
        for one in objects:
            column = filled[one.video]
            members[one.video, column] = one.place
            table[one.video, column + 1] = one.object_id
            place[one.place] = one.video * (self.widest + 1) + 1 + column
            owners[one.place] = one.video
            filled[one.video] += 1
        targets = (self._members, self._id_table, self._place, self._video_of)
        for target, array in zip(targets, (members, table, place, owners), strict=True):
            target.copy_(torch.from_numpy(array))

    def group(self, first: int, size: int) -> ObjectGroup:
        """A range of places whose memories are updated together; made once."""
        if (first, size) not in self._groups:
            if not self._spare or len(next(iter(self._spare.values()))) < size:
                self._spare = ObjectGroup.spare(self.network, size)
            part = {name: tensor[first : first + size] for name, tensor in self.tensors.items()}
            self._groups[first, size] = ObjectGroup(self.network, part, self._spare, self._scratch)
        return self._groups[first, size]

    def groups(self, due: Sequence[Followed], objects: Sequence[Followed]) -> list[ObjectGroup]:
        """What updates the memories of due objects and of no other: their groups, or each alone.

        An object of another pace may have taken a place among them.
        """
        wanted, occupied = {one.place for one in due}, {one.place for one in objects}
        whole = [occupied.intersection(range(o.group[0], sum(o.group))) <= wanted for o in due]
        ranges = [one.group if together else (one.place, 1) for one, together in zip(due, whole, strict=True)]
        return [self.group(*key) for key in dict.fromkeys(ranges)]

    def follow(self) -> None:
        """Enqueue a frame of all objects: a CUDA graph from the second call on."""
        self._replay(self.compute)

    def compute(self) -> None:
        """A frame of all objects: a function of the tensors alone."""
        t, windows, geometry, settings = self.tensors, self._windows, self.network.geometry, self.network.settings
        if self._whole is None:
            state = (t["probability"], t["pos"], t["scale"], t["base_size"])
            given = (geometry, settings.min_area, settings.windows)
            self._before(self.frames, self._video_of, *state, windows, t["crop"], *given)
        else:
            self._before(self.frames, windows, self.viewed["crop"], geometry, self._whole)
        for call in self._features:
            call()
        for of_object, of_video in self._spread:
            of_object.copy_(of_video.index_select(0, self._video_of))
        if self._read is not None:
            self._read()
        self._decode()
        self._after(t["logits"], windows, t["scores"], settings.score_resize)
        self.merge()

    def extract(self, first: int, size: int) -> None:
        """Features of the crops that lie in a range of places."""
        part = {name: tensor[first : first + size] for name, tensor in self.tensors.items()}
        for graph in FEATURES:
            if graph in self.network.engines:
                self.network.bind(graph, part)()

    def merge(self) -> None:
        """Soft aggregation of every video's objects; videos with fewer are filled up."""
        tables = (self._members, self._place, self._id_table)
        self._merge(self._scores, *tables, self.tensors["probability"], self.labels)

    def write(self, place: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Values of one object from the host."""
        for name, value in values.items():
            self.tensors[name][place].copy_(torch.from_numpy(np.ascontiguousarray(value)))
