"""Frames in and label maps out without waiting: pinned buffers, copies on streams of their own, events between them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .replay import Lane

DEPTH = 3
"""Frames that may be on their way at a time; the host waits when it comes with more."""


class Pending:
    """Label maps that are being computed."""

    def __init__(self, labels: Tensor, done: torch.cuda.Event | None) -> None:
        self._source: Tensor | None = labels
        self._done = done
        self._labels: NDArray[np.uint8]
        self._lock = threading.Lock()

    def result(self) -> NDArray[np.uint8]:
        """(V, H, W); waits for this frame only. May be called from another thread."""
        with self._lock:
            if self._source is not None:
                if self._done is not None:
                    self._done.synchronize()
                self._labels = self._source.numpy().copy()
                self._source = None
        return self._labels


class _Slot:
    """Buffers and events of one frame on its way."""

    def __init__(self, shape: tuple[int, int, int], device: torch.device) -> None:
        pinned = device.type == "cuda"
        self.host_frames = torch.zeros(*shape, 3, dtype=torch.uint8, pin_memory=pinned)
        self.host_labels = torch.zeros(shape, dtype=torch.uint8, pin_memory=pinned)
        self.pending: Pending | None = None
        if pinned:
            self.frames = torch.zeros(*shape, 3, dtype=torch.uint8, device=device)
            self.labels = torch.zeros(shape, dtype=torch.uint8, device=device)
            self.arrived, self.ready, self.done = (torch.cuda.Event() for _ in range(3))


class FrameQueue:
    """A ring of buffers for the frames (V, H, W, 3) and label maps (V, H, W) of V videos.

    A slot is used again once its label maps have arrived on the host, and with them everything before.

    Attributes:
        frames: on the device, where the graphs read them.
    """

    def __init__(self, lane: Lane, shape: tuple[int, int, int]) -> None:
        self.lane = lane
        self.frames = torch.zeros(*shape, 3, dtype=torch.uint8, device=lane.device)
        self._slots = [_Slot(shape, lane.device) for _ in range(DEPTH if lane.stream is not None else 1)]
        self._turn = 0
        lane.wait()

    def drain(self) -> None:
        """Take over all label maps on their way; the buffers may be freed then."""
        for slot in self._slots:
            if slot.pending is not None:
                slot.pending.result()

    def upload(self, images: Sequence[NDArray[np.uint8] | None]) -> None:
        """Enqueue the copy of the next frames to `frames`; a video without one keeps some earlier frame."""
        slot = self._slots[self._turn]
        if slot.pending is not None:
            slot.pending.result()
        if self.lane.stream is not None:
            # What came after the last upload may have failed: no label maps say that its copy is done.
            slot.arrived.synchronize()
        host = slot.host_frames.numpy()
        for place, image in zip(host, images, strict=True):
            if image is not None:
                np.copyto(place, image)
        lane = self.lane
        if lane.stream is None or lane.inward is None:
            self.frames.copy_(slot.host_frames)
            return
        with torch.cuda.stream(lane.inward):
            slot.frames.copy_(slot.host_frames, non_blocking=True)
            slot.arrived.record(lane.inward)
        lane.stream.wait_event(slot.arrived)
        self.frames.copy_(slot.frames)

    def download(self, labels: Tensor) -> Pending:
        """Enqueue the copy of the label maps that belong to the frames uploaded last."""
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % len(self._slots)
        lane = self.lane
        if lane.stream is None or lane.outward is None:
            slot.host_labels.copy_(labels)
            slot.pending = Pending(slot.host_labels, None)
        else:
            slot.labels.copy_(labels)
            slot.ready.record(lane.stream)
            lane.outward.wait_event(slot.ready)
            with torch.cuda.stream(lane.outward):
                slot.host_labels.copy_(slot.labels, non_blocking=True)
                slot.done.record(lane.outward)
            slot.pending = Pending(slot.host_labels, slot.done)
        return slot.pending
