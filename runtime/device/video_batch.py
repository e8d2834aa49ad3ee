"""Objects of one or several videos followed on a device, all in one batch; state lies in tensors of fixed address.

Per frame there is one call of each engine for all objects of all videos, and everything else is computed on the device
too: a frame is one CUDA graph, and so is the memory update of each group of objects that appeared together. New objects
change the tensors' sizes, so graphs are captured anew then, and only then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DeviceError, SettingsError
from ..settings import INITIAL_STEPS
from ..tracking.crop import OUTSIDE
from ..tracking.frame_checks import check_frame, ids_in, nothing_to_follow
from ..tracking.tracker import GIVEN, given_sample
from .frame_queue import FrameQueue, Pending
from .geometry import DeviceWindow, cut_images, paste_logits, search_windows, soft_aggregation, update_state
from .network import DeviceNetwork, FewShotLearner
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


class VideoBatch:
    """Objects of V videos.

    Args:
        network: the engines.
        videos: V.

    Attributes:
        ids: per video, its objects in the order in which they appeared.
        groups: objects that appeared in one call, in that order.
        tensors: state, memories and what is computed in between, the first axis counting all objects; `probability` are
            the merged maps (B, H, W) of the last frame.
    """

    def __init__(self, network: DeviceNetwork, videos: int) -> None:
        self.network = network
        self.videos = videos
        self.learners: dict[int, FewShotLearner] = {}
        self.queue: FrameQueue | None = None
        self.clear()

    def clear(self) -> None:
        """Forget all objects; the next frames may have any size."""
        self.network.lane.wait()
        if self.queue is not None:
            self.queue.drain()
        self.queue = None
        self.ids: list[list[int]] = [[] for _ in range(self.videos)]
        self.size: tuple[int, int] | None = None
        self._owners: list[int] = []
        self._let_go()

    def _let_go(self) -> None:
        """Of graphs, and of what only they hold, so that memory is free before more is taken; the lane must be idle."""
        self.groups: list[ObjectGroup] = []
        self.tensors: dict[str, Tensor] = {}
        for name in ("_replay", "_features", "_read", "_decode", "_scores", "labels"):
            vars(self).pop(name, None)

    def submit(
        self, frames: Sequence[NDArray[np.uint8] | None], masks: Sequence[NDArray[Any] | None] | None = None
    ) -> Pending:
        """Enqueue the next frame of every video.

        Args:
            frames: per video (H, W, 3) uint8, RGB, all of one size; None before a video's first mask and after its end.
            masks: per video a label map (H, W) where objects appear, or None.

        Returns:
            The label maps (V, H, W) to come; those of videos without a frame mean nothing.

        Raises:
            MaskError: a video has no object to follow, or a mask does not fit.
            SettingsError: a frame is misshapen, or there are more or fewer than V.
            DeviceError: the device's memory does not hold the objects.
        """
        masks = masks or [None] * self.videos
        if len(frames) != self.videos or len(masks) != self.videos:
            raise SettingsError(
                f"{len(frames)} frames and {len(masks)} masks for {self.videos} videos: expected one each"
            )
        new = self._check(frames, masks)
        lane = self.network.lane
        try:
            with lane.work():
                if self.queue is None:
                    self.size = next((f.shape[0], f.shape[1]) for f in frames if f is not None)
                    self.queue = FrameQueue(lane, (self.videos, *self.size))
                self.queue.upload(frames)
                if self._owners:
                    self.advance()
                if new:
                    self._add(frames, masks, new)
                return self.queue.download(self.labels)
        except torch.OutOfMemoryError:
            count = sum(len(ids) for ids in self.ids)
            raise DeviceError(
                f"the GPU's memory does not hold {count} objects with {self.network.capacity} frames each: follow "
                "fewer, or lower --memory"
            ) from None

    def _check(
        self, frames: Sequence[NDArray[np.uint8] | None], masks: Sequence[NDArray[Any] | None]
    ) -> list[tuple[int, int]]:
        """Video and id of every object that appears."""
        new, size = [], self.size
        for video, (frame, mask, known) in enumerate(zip(frames, masks, self.ids, strict=True)):
            if frame is None:
                continue
            size = check_frame(frame, size).shape[:2]  # type: ignore[assignment]
            given = [] if mask is None else ids_in(mask, frame.shape[:2])
            appearing = [i for i in given if i not in known]
            if not known and not appearing:
                raise nothing_to_follow(mask)
            new += [(video, i) for i in appearing]
        if size is None:
            raise SettingsError("no video has a frame: expected at least one")
        return new

    def advance(self) -> None:
        """Enqueue the work of the frames that lie in `queue.frames`; within `lane.work()`."""
        for group in self.groups:
            if group.due(self.network.settings):
                group.update()
        self._replay(self._follow)

    def _add(
        self,
        frames: Sequence[NDArray[np.uint8] | None],
        masks: Sequence[NDArray[Any] | None],
        new: list[tuple[int, int]],
    ) -> None:
        before, count = len(self._owners), len(new)
        given, samples = [], []
        for video, object_id in new:
            frame, labels = frames[video], masks[video]
            assert frame is not None and labels is not None
            mask = labels == object_id
            given.append(np.where(mask, np.float32(GIVEN), np.float32(-GIVEN)))
            samples.append(given_sample(frame, mask, self.network.geometry))
            self.ids[video].append(object_id)
        kept = self._kept()
        self._lay_out(self._owners + [video for video, _ in new], [*self._ranges(), (count, 1)])
        for name, tensor in kept.items():
            self.tensors[name][:before].copy_(tensor[:before])
        group = self.groups[-1]

        def move(values: list[NDArray[np.float32]], name: str) -> None:
            group.tensors[name].copy_(torch.from_numpy(np.stack(values)))

        move([state.pos for state, _, _ in samples], "pos")
        move([np.atleast_1d(state.target_scale) for state, _, _ in samples], "scale")
        move([state.base_target_size for state, _, _ in samples], "base_size")
        move([crop.transpose(2, 0, 1) for _, crop, _ in samples], "crop")
        move([label[None] for _, _, label in samples], "mask")
        move(given, "scores")
        for call in self._bind_features(group.tensors):
            call()
        learner = None
        if "z_ind" in self.network.ports:
            learner = self.learners.get(count) or FewShotLearner(self.network, count, INITIAL_STEPS)
            self.learners[count] = learner
        group.start(learner)
        self._merge()

    def remove(self, video: int) -> None:
        """Forget a video's objects; its place is free for another one of the same size."""
        with self.network.lane.work():
            stay = [i for i, owner in enumerate(self._owners) if owner != video]
            self.ids[video] = []
            if not stay:
                self.clear()
                return
            first, ranges = 0, []
            for size, count in self._ranges():
                left = sum(first <= i < first + size for i in stay)
                ranges += [(left, count)] if left else []
                first += size
            kept, index = self._kept(), torch.tensor(stay, device=self.network.lane.device)
            self._lay_out([self._owners[i] for i in stay], ranges)
            for name, tensor in kept.items():
                self.tensors[name].copy_(tensor.index_select(0, index))
            self._merge()

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays."""
        self.network.lane.wait()
        arrays = {name: tensor.cpu().numpy() for name, tensor in self._kept().items()}
        ids = {f"ids{video}": np.array(ids, np.int64) for video, ids in enumerate(self.ids)}
        size = np.array(self.size or (0, 0))
        return {
            **arrays,
            **ids,
            "size": size,
            "owners": np.array(self._owners, np.int64),
            "ranges": np.array(self._ranges(), np.int64).reshape(-1, 2),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`; backend, bundle and settings must be the same."""
        self.clear()
        if not len(state["owners"]):
            return
        self.ids = [state[f"ids{video}"].tolist() for video in range(self.videos)]
        height, width = state["size"].tolist()
        self.size = (height, width)
        with self.network.lane.work():
            self.queue = FrameQueue(self.network.lane, (self.videos, height, width))
            self._lay_out(state["owners"].tolist(), [(size, count) for size, count in state["ranges"].tolist()])
            for name, tensor in self._kept().items():
                tensor.copy_(torch.from_numpy(state[name]))
            self._merge()

    def _ranges(self) -> list[tuple[int, int]]:
        """Objects and frame count of every group."""
        return [(group.tensors["pos"].shape[0], group.frame_count) for group in self.groups]

    def _kept(self) -> dict[str, Tensor]:
        """What must survive when the arrays are laid out anew."""
        names = (*_STATE, "scores", *_KEPT_PORTS)
        return {name: self.tensors[name] for name in names if name in self.tensors}

    def _lay_out(self, owners: list[int], ranges: list[tuple[int, int]]) -> None:
        """Arrays for objects of these videos, in groups of so many objects and frame counts; graphs to be captured."""
        network, device = self.network, self.network.lane.device
        assert self.size is not None
        B, H, W = len(owners), *self.size
        # What is about to be freed may still be in use.
        network.lane.wait()
        self._let_go()
        tensors = {n: torch.zeros(B, c, dtype=kind, device=device) for n, (c, kind) in _STATE.items()}
        tensors |= {p: network.tensor(p, B) for p in (*_KEPT_PORTS, *_SCRATCH_PORTS) if p in network.ports}
        # Slots are chosen by these weights, whether or not a filter is learned with them.
        tensors["sample_weights"] = torch.zeros(B, network.capacity, device=device)
        # One more: the scores of an object that is not there.
        self._scores = torch.full((B + 1, H, W), OUTSIDE, device=device)
        tensors |= {"scores": self._scores[:B], "probability": torch.zeros(B, H, W, device=device)}
        self.labels = torch.zeros(self.videos, H, W, dtype=torch.uint8, device=device)
        self.tensors, self._owners = tensors, owners
        self._tabulate()
        spare = ObjectGroup.spare(network, max(size for size, _ in ranges))
        self.groups, first, scratch = [], 0, network.lane.scratch()
        for size, count in ranges:
            part = {name: tensor[first : first + size] for name, tensor in tensors.items()}
            self.groups.append(ObjectGroup(network, part, spare, count, scratch))
            first += size
        self._features = self._bind_features(tensors)
        self._read = network.bind("memory_read", tensors) if "memory_read" in network.engines else None
        self._decode = network.bind("decoder", tensors)
        self._replay = Replay(network.lane, scratch, capturable=network.capturable)

    def _bind_features(self, tensors: Mapping[str, Tensor]) -> list[Any]:
        graphs = [g for g in ("backbone", "transformer_query") if g in self.network.engines]
        return [self.network.bind(graph, tensors) for graph in graphs]

    def _tabulate(self) -> None:
        """Which objects each video's merge takes, and where an object's map is found after it."""
        device, B = self.network.lane.device, len(self._owners)
        most = max(len(ids) for ids in self.ids)
        members = np.full((self.videos, most), B)
        place, filled = np.zeros(B, np.int64), [0] * self.videos
        for i, video in enumerate(self._owners):
            members[video, filled[video]] = i
            place[i] = video * (most + 1) + 1 + filled[video]
            filled[video] += 1
        table = np.zeros((self.videos, most + 1), np.uint8)
        for video, ids in enumerate(self.ids):
            table[video, 1 : len(ids) + 1] = ids
        self._members, self._place, self._id_table, self._video_of = (
            torch.from_numpy(array).to(device) for array in (members, place, table, np.array(self._owners))
        )

    def _follow(self) -> None:
        """A frame of all objects: a function of the tensors alone."""
        network, t = self.network, self.tensors
        geometry, size = network.geometry, self.size
        assert size is not None and self.queue is not None
        pos, scale = update_state(t["probability"], t["pos"], t["scale"], t["base_size"], network.settings.min_area)
        t["pos"].copy_(pos)
        t["scale"].copy_(scale)
        windows = search_windows(pos, scale, size, geometry.crop_size, geometry.stride, geometry.filter_size)
        for name, value in zip(WINDOW, windows, strict=True):
            t[name].copy_(value)
        t["crop"].copy_(cut_images(self.queue.frames, self._video_of, windows, geometry.crop_size))
        for call in self._features:
            call()
        if self._read is not None:
            self._read()
        self._decode()
        t["scores"].copy_(paste_logits(t["logits"], DeviceWindow(*windows), size, network.settings.score_resize))
        self._merge()

    def _merge(self) -> None:
        """Soft aggregation of every video's objects; videos with fewer are filled up."""
        scores = self._scores.index_select(0, self._members.flatten()).unflatten(0, self._members.shape)
        merged = soft_aggregation(scores)
        self.tensors["probability"].copy_(merged.flatten(0, 1).index_select(0, self._place))
        winners = merged.argmax(1)
        self.labels.copy_(self._id_table.gather(1, winners.flatten(1)).view_as(winners))
