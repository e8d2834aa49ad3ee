"""Work on a device: one stream of its own, functions over tensors of fixed address, captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from .device_engine import DeviceArray, DType

TORCH_TYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


class Lane:
    """Where a segmenter's work is enqueued, in order: a stream of a GPU, or the caller's thread for CPU tensors.

    Attributes:
        captured: CUDA graphs captured so far; constant in the steady state.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.captured = 0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # No tensor lives on from one graph to another, so that all may share their scratch memory.
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None

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

    def allocate(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """Memory on the device, for a backend's own use."""
        tensor = torch.empty(shape, dtype=TORCH_TYPES[dtype], device=self.device)
        return DeviceArray(tensor.data_ptr(), shape, dtype, tensor)

    def wait(self) -> None:
        """Wait until everything enqueued has finished."""
        if self.stream is not None:
            self.stream.synchronize()

    def capture(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Record a function without running it; it must have run once, so that its libraries are set up."""
        graph = torch.cuda.CUDAGraph()
        self.wait()
        # Other threads of the process may go on using the GPU.
        with torch.cuda.graph(graph, pool=self._pool, stream=self.stream, capture_error_mode="thread_local"):
            function()
        self.captured += 1
        return graph


class Replay:
    """A function without arguments over tensors of fixed address; on a GPU captured at its second call.

    Args:
        function: enqueues on the lane's stream.
        lane: where.
        capturable: False for work that cannot be captured, which is enqueued call by call.
    """

    def __init__(self, function: Callable[[], None], lane: Lane, *, capturable: bool) -> None:
        self.function = function
        self.lane = lane
        self._plain = lane.stream is None or not capturable
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(self) -> None:
        """Enqueue it. The first call is a plain one and counts; a capture itself computes nothing."""
        if self._plain or not self._warm:
            self.function()
            self._warm = True
            return
        if self._graph is None:
            self._graph = self.lane.capture(self.function)
        self._graph.replay()
