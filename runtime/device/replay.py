"""Work on a device: one stream of its own, functions over tensors of fixed address, captured once and replayed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .engines.protocol import DeviceArray, DType

TORCH_TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}
_CAPTURING = threading.Lock()
"""Torch takes one capture at a time in a process."""


class _Thread(threading.local):
    """The running thread, told apart from those that ended, whose numbers are given out again."""

    def __init__(self) -> None:
        self.mark = object()


_THREAD = _Thread()


@contextmanager
def undisturbed() -> Iterator[None]:
    """No other capture in the block, and no garbage collection: what it frees may call what a capture forbids."""
    with _CAPTURING:
        enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if enabled:
                gc.enable()


class Lane:
    """Where a segmenter's work is enqueued, in order: a stream of a GPU, or the caller's thread for CPU tensors.

    Attributes:
        captured: CUDA graphs captured so far; constant in the steady state.
        inward, outward: streams for the copies from and to the host; None for CPU tensors.
        second: a stream for work beside other work; None for CPU tensors.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.captured = 0
        # Made once: torch deals streams from a small pool in turn, so that later ones would be the same again.
        self.stream, self.inward, self.outward, self.second = (
            torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(4)
        )

    @property
    def handle(self) -> int:
        """The CUDA stream's handle; 0 for CPU tensors."""
        return 0 if self.stream is None else self.stream.cuda_stream

    @contextmanager
    def work(self) -> Iterator[None]:
        """Enqueue what torch is asked for in the block; nothing is recorded for autograd."""
        with torch.no_grad():
            if self.stream is None:
                yield
            else:
                with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
                    yield

    @contextmanager
    def beside(self, work: Callable[[], None]) -> Iterator[None]:
        """Enqueue `work` beside the block's own, after what is enqueued already; what follows waits for both.

        Neither may write what the other reads or writes. Within a capture, both become branches of one graph.
        """
        if self.stream is None or self.second is None:
            work()
            yield
            return
        self.second.wait_stream(self.stream)
        try:
            with torch.cuda.stream(self.second):
                work()
            yield
        finally:
            self.stream.wait_stream(self.second)

    def follow(self) -> None:
        """Begin after what the caller's stream holds, such as weights that are being converted."""
        if self.stream is not None:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """Memory on the device, for a backend's own use."""
        tensor = torch.empty(shape, dtype=TORCH_TYPES[dtype], device=self.device)
        return DeviceArray(tensor.data_ptr(), shape, dtype, tensor)

    def wait(self) -> None:
        """Wait until everything enqueued has finished."""
        if self.stream is not None:
            self.stream.synchronize()

    def scratch(self) -> Any:
        """Memory for what graphs compute in between, to be shared by graphs that end together; None on the CPU.

        No tensor lives on from one graph to another, and they are replayed one after another.
        """
        return None if self.stream is None else torch.cuda.graph_pool_handle()

    def capture(self, function: Callable[[], None], scratch: Any) -> torch.cuda.CUDAGraph:
        """Record a function without running it; this thread must have run it, so that its libraries are set up."""
        graph = torch.cuda.CUDAGraph()
        self.wait()
        # Other threads of the process may go on using the GPU.
        capture = torch.cuda.graph(graph, pool=scratch, stream=self.stream, capture_error_mode="thread_local")
        with undisturbed(), capture:
            function()
        self.captured += 1
        return graph


class Replay:
    """A function without arguments over tensors of fixed address; on a GPU captured at a thread's second call.

    cuDNN's choices and the handles of cuDNN and cuBLAS are a thread's own, and may not be made within a capture.

    Args:
        lane: where it is enqueued.
        scratch: `lane.scratch()`, shared with others.
        capturable: False for work that cannot be captured, which is enqueued call by call.
    """

    def __init__(self, lane: Lane, scratch: Any, *, capturable: bool) -> None:
        self.lane = lane
        self._scratch = scratch
        self._plain = lane.stream is None or not capturable
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm: object = None

    def __call__(self, function: Callable[[], None]) -> None:
        """Enqueue a function, the same one at every call.

        It is not kept, so that its owner and this object, and with them a graph's memory, end without a cycle. A
        thread's first call is a plain one and counts, unless there is a graph; a capture itself computes nothing.
        """
        if self._plain or (self._graph is None and self._warm is not _THREAD.mark):
            function()
            self._warm = _THREAD.mark
            return
        if self._graph is None:
            self._graph = self.lane.capture(function, self._scratch)
        self._graph.replay()
