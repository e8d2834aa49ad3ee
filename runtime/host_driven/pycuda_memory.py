"""Memory and a stream through pycuda, for TensorRT engines where torch is not installed, as on a Jetson.

The device's primary context is used, the one that TensorRT's own library uses, and it is current only while something
is done; `pycuda.autoinit`, which would make another, is never imported. pycuda frees memory only from the thread that
retained the context it was taken in, so a network belongs to one thread.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import DependencyError, DeviceError
from ..bundle import Bundle
from ..clock import StageClock
from ..device.cuda_driver import device_ordinal, query_cuda_driver
from ..device.engines.protocol import DeviceArray, DType
from ..device.engines.tensorrt import load_engines
from ..settings import Settings
from .network import EngineNetwork


def import_pycuda() -> Any:
    """The module `pycuda.driver`; it needs the driver's library, so that this is asked first.

    Raises:
        DependencyError: pycuda is not installed.
        DeviceError: there is no driver or GPU.
    """
    problem = query_cuda_driver().problem
    if problem is not None:
        raise DeviceError(f"pycuda cannot be used: {problem}; use the ONNX bundle with --device cpu")
    try:
        return importlib.import_module("pycuda.driver")
    except (ImportError, OSError) as error:
        raise DependencyError(
            f"pycuda cannot be imported ({str(error)[:120]}): install it with "
            "`PATH=/usr/local/cuda/bin:$PATH pip install 'jointrt[pycuda]'`, which compiles it with CUDA's headers; "
            "benchmarks/README.md says how without CUDA's toolkit"
        ) from None


class _Retained(threading.local):
    """Primary contexts of the running thread, by the number of their GPU."""

    def __init__(self) -> None:
        self.contexts: dict[int, Any] = {}


_RETAINED = _Retained()


def primary_context(ordinal: int) -> Any:
    """The primary context of a GPU, retained once by each thread and kept as long as the thread.

    pycuda's way to release one leaves it on the thread's stack, where later calls would meet a dead context.
    """
    contexts = _RETAINED.contexts
    if ordinal not in contexts:
        cuda = import_pycuda()
        cuda.init()
        contexts[ordinal] = cuda.Device(ordinal).retain_primary_context()
    return contexts[ordinal]


class PycudaDevice:
    """See `engine_network.Device`."""

    def __init__(self, device: str) -> None:
        self._cuda = import_pycuda()
        self._context = primary_context(device_ordinal(device))
        with self.current():
            self._stream = self._cuda.Stream()
        self.stream: int = self._stream.handle

    @contextmanager
    def current(self) -> Iterator[None]:
        """The primary context on the thread's stack, and off it again."""
        self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def zeros(self, shape: tuple[int, ...], dtype: DType) -> DeviceArray:
        """New memory, cleared on the stream."""
        size = prod(shape) * np.dtype(dtype).itemsize
        memory = self._cuda.mem_alloc(size)
        self._cuda.memset_d8_async(int(memory), 0, size, self._stream)
        return DeviceArray(int(memory), shape, dtype, memory)

    def pinned(self, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
        """New page-locked memory."""
        array: NDArray[Any] = self._cuda.pagelocked_empty(shape, np.dtype(dtype))
        return array

    def upload(self, destination: DeviceArray, source: NDArray[Any]) -> None:
        """Enqueue a copy to the device."""
        self._cuda.memcpy_htod_async(destination.address, source, self._stream)

    def download(self, destination: NDArray[Any], source: DeviceArray) -> None:
        """Enqueue a copy from the device."""
        self._cuda.memcpy_dtoh_async(destination, source.address, self._stream)

    def copy(self, destination: DeviceArray, source: DeviceArray) -> None:
        """Enqueue a copy on the device."""
        size = prod(source.shape) * np.dtype(source.dtype).itemsize
        self._cuda.memcpy_dtod_async(destination.address, source.address, size, self._stream)

    def wait(self) -> None:
        """Until the stream is idle; other threads of the process go on."""
        self._stream.synchronize()


def pycuda_network(bundle: Bundle, settings: Settings, clock: StageClock, device: str) -> EngineNetwork:
    """A bundle's TensorRT engines, run through pycuda.

    Args:
        bundle: of TensorRT or TensorRT-RTX engines.
        settings: branches, memory.
        clock: for the stage "device".
        device: "cuda" or "cuda:N".

    Raises:
        BundleError: the engines cannot be used.
        DependencyError: pycuda or the TensorRT library is not installed.
        DeviceError: driver or GPU do not fit.
        SettingsError: the memory is larger than the engines'.
    """
    memory = PycudaDevice(device)
    with memory.current():
        engines = load_engines(bundle, settings, device=device, allocate=memory.zeros)
    return EngineNetwork(engines, bundle.manifest.graphs, memory, settings, clock)
