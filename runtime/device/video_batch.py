"""Objects of one or several videos followed on a device, all in one batch; state lies in tensors of fixed address.

Per frame there is one call of each engine for all objects of all videos, and everything else is computed on the device
too: a frame is one CUDA graph, and so is the memory update of each group of objects that appeared together. There are
more places than objects, so that a new object seldom changes the tensors' sizes; graphs are captured anew only then.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import DeviceError, SettingsError
from ..settings import INITIAL_STEPS
from ..tracking.aggregation import GIVEN
from ..tracking.frame_checks import check_frame, ids_in, nothing_to_follow, warn_of_unused
from ..tracking.sample_weights import MOST_GIVEN, SampleWeights
from ..tracking.tracker import given_sample, update_due
from .frame_queue import FrameQueue, Pending
from .layout import Followed, Layout, rounded
from .network import DeviceNetwork, FewShotLearner

Masks = Sequence[NDArray[Any] | None]


class VideoBatch:
    """Objects of V videos.

    Args:
        network: the engines.
        videos: V.

    Attributes:
        objects: in the order in which they appeared.
        queue: of frames and label maps; None before the first frame.
    """

    def __init__(self, network: DeviceNetwork, videos: int) -> None:
        self.network = network
        self.videos = videos
        self.queue: FrameQueue | None = None
        self.clear()

    @property
    def ids(self) -> list[list[int]]:
        """Per video, its objects in the order in which they appeared."""
        return [[one.object_id for one in self.objects if one.video == video] for video in range(self.videos)]

    @property
    def layout(self) -> Layout:
        """Of the objects; there must be some."""
        assert self._layout is not None
        return self._layout

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """See `Layout.tensors`; empty where nothing is followed."""
        return {} if self._layout is None else self._layout.tensors

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of the frames; None before the first."""
        return None if self.queue is None else (self.queue.frames.shape[1], self.queue.frames.shape[2])

    def places(self, video: int = 0) -> list[int]:
        """Where a video's objects lie in the tensors, in the order of `ids`."""
        return [one.place for one in self.objects if one.video == video]

    def clear(self) -> None:
        """Forget all objects and give back what was held for them; the next frames may have any size."""
        self.network.lane.wait()
        if self.queue is not None:
            self.queue.drain()
        self.queue = None
        self.objects: list[Followed] = []
        self.learners: dict[int, FewShotLearner] = {}
        self._layout: Layout | None = None

    def submit(
        self, frames: Sequence[NDArray[np.uint8] | None], masks: Masks | None = None, correct: bool = False
    ) -> Pending:
        """Enqueue the next frame of every video.

        Args:
            frames: per video (H, W, 3) uint8, RGB, all of one size; None before a video's first mask and after its end.
            masks: per video a label map (H, W) where objects appear, or None.
            correct: whether ids in masks that are followed already are corrected.

        Returns:
            The label maps (V, H, W) to come; those of videos without a frame mean nothing.

        Raises:
            MaskError: a video has no object to follow, or a mask does not fit.
            SettingsError: a frame is misshapen, or there are more or fewer than V.
            DeviceError: the device's memory does not hold the objects; those of before are followed as before.
        """
        masks = masks or [None] * self.videos
        if len(frames) != self.videos or len(masks) != self.videos:
            raise SettingsError(
                f"{len(frames)} frames and {len(masks)} masks for {self.videos} videos: expected one each"
            )
        new, known = self._check(frames, masks, correct)
        corrected = known if correct else []
        try:
            with self.network.lane.work():
                if self.queue is None:
                    height, width = next(f.shape[:2] for f in frames if f is not None)
                    self.queue = FrameQueue(self.network.lane, (self.videos, height, width))
                self.queue.upload(frames)
                if self.objects:
                    self.advance({one.place for one in corrected})
                if corrected:
                    self._correct(frames, masks, corrected)
                if new:
                    self._add(frames, masks, new)
                return self.queue.download(self.layout.labels)
        except torch.OutOfMemoryError:
            count = len(self.objects) + len(new)
            if not self.objects:
                self.clear()
            raise DeviceError(
                f"the GPU's memory does not hold {count} objects with {self.network.capacity} frames each: follow "
                "fewer, or lower --memory"
            ) from None

    def _check(
        self, frames: Sequence[NDArray[np.uint8] | None], masks: Masks, correct: bool
    ) -> tuple[list[Followed], list[Followed]]:
        """Objects that appear, without a place yet, and those followed whose mask is given."""
        new, known, size = [], [], self.size
        for video, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
            if frame is None:
                continue
            size = check_frame(frame, size).shape[:2]  # type: ignore[assignment]
            given = [] if mask is None else ids_in(mask, frame.shape[:2])
            there = {one.object_id: one for one in self.objects if one.video == video}
            appearing = [i for i in given if i not in there]
            if not there and not appearing:
                raise nothing_to_follow(mask)
            if mask is not None:
                warn_of_unused(given, there, correct)
            new += [Followed(video, i, -1) for i in appearing]
            known += [there[i] for i in given if i in there]
        if size is None:
            raise SettingsError("no video has a frame: expected at least one")
        return new, known

    def advance(self, corrected: set[int] | frozenset[int] = frozenset()) -> None:
        """Enqueue the work of the frames that lie in `queue.frames`; within `lane.work()`.

        Args:
            corrected: places whose memory takes this frame's mask instead of what the last frame left.
        """
        layout, settings = self.layout, self.network.settings
        due = []
        for one in self.objects:
            one.seen += 1
            if update_due(one.seen, one.given_at, settings):
                due.append(one)
        aside = {one.place: self._aside(one.place) for one in due if one.place in corrected}
        for group in layout.groups(due, self.objects):
            group.update()
        for place, values in aside.items():
            for name, value in values.items():
                layout.tensors[name][place].copy_(value)
        layout.follow()

    def _aside(self, place: int) -> dict[str, Tensor]:
        """A copy of what an object holds, for it shares an update that it does not take part in."""
        return {name: tensor[place].clone() for name, tensor in self.layout.kept().items()}

    def _given(self, layout: Layout, frame: NDArray[np.uint8], mask: NDArray[np.bool_], place: int) -> None:
        """State, crop, mask crop and scores of an object whose mask is given."""
        crop_size = self.network.geometry.crop_size
        state, cut = given_sample(mask, self.network.geometry, self.network.settings.share)
        crop, label = cut.image(frame, crop_size), cut.mask(mask.astype(np.float32), crop_size)
        values = {
            "pos": state.pos,
            "scale": np.atleast_1d(state.target_scale),
            "base_size": state.base_target_size,
            "crop": crop.transpose(2, 0, 1),
            "mask": label[None],
            "scores": np.where(mask, np.float32(GIVEN), np.float32(-GIVEN)),
        }
        layout.write(place, values)

    def _add(self, frames: Sequence[NDArray[np.uint8] | None], masks: Masks, new: list[Followed]) -> None:
        """Objects take places in the layout that is there, or in a larger one, which replaces it once they are in."""
        objects = [replace(one) for one in self.objects]
        layout, first = self._room(objects, new)
        for place, one in enumerate(new, first):
            one.place, one.group = place, (first, len(new))
            frame, labels = frames[one.video], masks[one.video]
            assert frame is not None and labels is not None
            layout.empty(place)
            self._given(layout, frame, labels == one.object_id, place)
        count = len(new)
        layout.extract(first, count)
        learner = None
        if "z_ind" in self.network.ports:
            learner = self.learners.get(count) or FewShotLearner(self.network, count, INITIAL_STEPS)
            self.learners[count] = learner
        layout.group(first, count).start(learner)
        objects += new
        layout.tabulate(objects)
        layout.merge()
        self.objects, self._layout = objects, layout

    def _room(self, objects: list[Followed], new: list[Followed]) -> tuple[Layout, int]:
        """A layout with neighbouring places for new objects, and the first of them; objects that must move are told."""
        assert self.queue is not None
        widest = max(sum(one.video == video for one in (*objects, *new)) for video in range(self.videos))
        old = self._layout
        if old is not None and widest <= old.widest:
            taken = {one.place for one in objects}
            for first in range(old.places - len(new) + 1):
                if taken.isdisjoint(range(first, first + len(new))):
                    return old, first
        # What is about to be freed may still be in use.
        self.network.lane.wait()
        places = rounded(len(objects) + len(new))
        wide = min(places, rounded(widest)) if self.videos > 1 else places
        layout = Layout(self.network, self.queue.frames, places, wide)
        if old is not None:
            layout.take_over(old, [(one.place, place) for place, one in enumerate(objects)])
        for _, members in itertools.groupby(enumerate(objects), key=lambda item: item[1].group):
            together = list(members)
            for place, one in together:
                one.place, one.group = place, (together[0][0], len(together))
        return layout, len(objects)

    def _correct(self, frames: Sequence[NDArray[np.uint8] | None], masks: Masks, corrected: list[Followed]) -> None:
        """Given masks instead of what the frame gave: merged as they are, samples that stay, state begun again."""
        layout, memory = self.layout, self.network.settings.memory
        for one in corrected:
            frame, labels = frames[one.video], masks[one.video]
            assert frame is not None and labels is not None
            place, t = one.place, layout.tensors
            self._given(layout, frame, labels == one.object_id, place)
            layout.extract(place, 1)
            weights = SampleWeights(memory)
            weights.load_state_dict(
                {
                    "weights": t["sample_weights"][place, :memory].cpu().numpy(),
                    "stored": t["stored"][place, 0].cpu().numpy(),
                    "previous": t["previous"][place, 0].cpu().numpy(),
                    "given": np.array(one.given, np.int64),
                }
            )
            slot = weights.insert_given()
            one.given, one.given_at = weights.given, one.seen
            kept, values, one_hot = (np.zeros(self.network.capacity, np.float32) for _ in range(3))
            kept[[0, *weights.given]] = one_hot[slot] = 1
            values[:memory] = weights.values
            previous = -1 if weights.previous is None else weights.previous
            layout.write(
                place,
                {
                    "sample_weights": values,
                    "kept": kept,
                    "stored": np.array([weights.stored]),
                    "previous": np.array([previous]),
                },
            )
            layout.group(place, 1).take_given(torch.from_numpy(one_hot)[None].to(self.network.lane.device))
        layout.merge()

    def remove(self, video: int, object_id: int | None = None) -> None:
        """Forget an object of a video, or all; its place is free for another one. Nothing is allocated or captured.

        The others' maps of the last frame stay as they are.
        """
        stay = [one for one in self.objects if one.video != video or object_id not in (None, one.object_id)]
        if not stay:
            self.clear()
            return
        with self.network.lane.work():
            for one in self.objects:
                if one not in stay:
                    self.layout.empty(one.place)
            self.layout.tabulate(stay)
        self.objects = stay

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Everything that the next frame depends on, as arrays, objects in the order in which they appeared."""
        with self.network.lane.work():
            index = torch.tensor([one.place for one in self.objects], dtype=torch.long, device=self.network.lane.device)
            kept = {} if self._layout is None else self._layout.kept()
            arrays = {name: tensor.index_select(0, index).cpu().numpy() for name, tensor in kept.items()}
        given = np.full((len(self.objects), MOST_GIVEN), -1)
        for row, one in zip(given, self.objects, strict=True):
            row[: len(one.given)] = one.given
        table = [(o.video, o.object_id, o.place, *o.group, o.seen, o.given_at) for o in self.objects]
        return {
            **arrays,
            "size": np.array(self.size or (0, 0)),
            "objects": np.array(table, np.int64).reshape(-1, 7),
            "given": given,
            "places": np.array((0, 0) if self._layout is None else (self._layout.places, self._layout.widest)),
        }

    def load_state_dict(self, state: Mapping[str, NDArray[Any]]) -> None:
        """The reverse of `state_dict`; backend, bundle and settings must be the same.

        Graphs stay where the frames' size and the number of places are those of the state.
        """
        height, width = state["size"].tolist()
        places, widest = state["places"].tolist()
        old = self._layout
        fits = old is not None and old.size == (height, width) and (old.places, old.widest) == (places, widest)
        if not fits:
            self.clear()
        if not places:
            self.clear()
            return
        objects = []
        for row, given in zip(state["objects"].tolist(), state["given"].tolist(), strict=True):
            video, object_id, place, first, size, seen, given_at = row
            slots = tuple(slot for slot in given if slot >= 0)
            objects.append(Followed(video, object_id, place, (first, size), seen, given_at, slots))
        with self.network.lane.work():
            if self.queue is None:
                self.queue = FrameQueue(self.network.lane, (self.videos, height, width))
            layout = old if fits and old is not None else Layout(self.network, self.queue.frames, places, widest)
            for place in range(places):
                layout.empty(place)
            for name, tensor in layout.kept().items():
                for one, value in zip(objects, state[name], strict=True):
                    tensor[one.place].copy_(torch.from_numpy(value))
            layout.tabulate(objects)
        self.objects, self._layout = objects, layout
