"""Functions of torch tensors as graphs on a device: what they read and fill lies where arrays are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .protocol import DeviceArray


class _Flags:
    """Torch's flags are the process's: the first block that begins sets them, the last one that ends puts them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before = self._read()

    @staticmethod
    def _read() -> tuple[bool, ...]:
        cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
        flags = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, cuda.matmul.allow_tf32)
        return *flags, cuda.cudnn_sdp_enabled()

    @staticmethod
    def _write(flags: tuple[bool, ...]) -> None:
        cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, cuda.matmul.allow_tf32 = flags[:4]
        cuda.enable_cudnn_sdp(flags[4])

    def begin(self) -> None:
        """Set what `arithmetic` promises, but for blocks that have set it."""
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                self._before = self._read()
                # cuDNN's attention does not split keys: one head and few queries leave most of a GPU idle.
                self._write((True, False, False, False, False))

    def end(self) -> None:
        """Put back what was set before the first block."""
        with self._lock:
            self._blocks -= 1
            if not self._blocks:
                self._write(self._before)


_FLAGS = _Flags()


@contextmanager
def arithmetic() -> Iterator[None]:
    """fp32 means fp32 in the block, and convolutions are tried out for their shapes; the process's choice returns.

    Blocks of several threads may overlap.
    """
    _FLAGS.begin()
    try:
        yield
    finally:
        _FLAGS.end()


def tensor_of(name: str, array: DeviceArray) -> Tensor:
    """The tensor behind an array; the trunk's layers, which only these graphs read, lie with channels last."""
    tensor = array.owner
    assert isinstance(tensor, Tensor)
    return with_channels_last(tensor) if name.startswith("layer") else tensor


def with_channels_last(tensor: Tensor) -> Tensor:
    """(B, C, H, W) whose bytes lie as (B, H, W, C)."""
    B, C, H, W = tensor.shape
    return tensor.view(B, H, W, C).permute(0, 3, 1, 2)


class BoundFunction:
    """A function of tensors, with those that it reads and those that its results are written to."""

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        self.function, self.inputs, self.outputs = function, inputs, outputs

    def enqueue(self, stream: int) -> None:
        """Compute; the current stream of torch must be `stream`."""
        del stream
        with torch.no_grad(), arithmetic():
            results = self.function(*self.inputs)
            results = results if isinstance(results, (tuple, list)) else (results,)
            for output, result in zip(self.outputs, results, strict=True):
                output.copy_(result)
