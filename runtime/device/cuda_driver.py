"""What the NVIDIA driver says of itself, asked through its C library, without any Python package for CUDA."""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass

from ...errors import DeviceError

COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR = 75, 76
"""Device attributes in `cuda.h`."""


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """One GPU.

    Attributes:
        name: as the driver calls it.
        compute_capability: major and minor.
        memory: bytes.
    """

    name: str
    compute_capability: tuple[int, int]
    memory: int


@dataclass(frozen=True, slots=True)
class CudaDriver:
    """The driver.

    Attributes:
        cuda_version: newest CUDA that it runs, major and minor; None if there is no driver.
        devices: GPUs that this process may use.
        problem: why there are none; None if there are.
    """

    cuda_version: tuple[int, int] | None
    devices: tuple[CudaDevice, ...]
    problem: str | None


def device_ordinal(device: str) -> int:
    """Number of a GPU: "cuda" -> 0, "cuda:1" -> 1.

    Raises:
        DeviceError: it is no such text.
    """
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise DeviceError(f"device is {device!r}: expected cuda, or cuda:1 for the second GPU")
    return int(match[1] or 0)


def query_cuda_driver() -> CudaDriver:
    """Ask the driver; makes no context and takes no GPU memory. Where its library is not found, torch is asked."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return _asked_through_torch() or CudaDriver(None, (), "no NVIDIA driver")
    number = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(number)):
        return CudaDriver(None, (), "the NVIDIA driver does not answer")
    version = (number.value // 1000, number.value % 1000 // 10)
    if code := library.cuInit(0):
        return CudaDriver(version, (), f"the NVIDIA driver finds no GPU (cuInit: error {code})")
    library.cuDeviceGetCount(ctypes.byref(number))
    devices = tuple(_device(library, ordinal) for ordinal in range(number.value))
    return CudaDriver(version, devices, None if devices else "the NVIDIA driver finds no GPU")


def _asked_through_torch() -> CudaDriver | None:
    """Where the library lies on no path that is searched, a torch that is loaded may have found it all the same."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    number = torch._C._cuda_getDriverVersion()
    records = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    devices = tuple(CudaDevice(r.name, (r.major, r.minor), r.total_memory) for r in records)
    return CudaDriver((number // 1000, number % 1000 // 10), devices, None)


def _device(library: ctypes.CDLL, ordinal: int) -> CudaDevice:
    handle, memory, name = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
    library.cuDeviceGet(ctypes.byref(handle), ordinal)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    capability = []
    for attribute in (COMPUTE_CAPABILITY_MAJOR, COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        capability.append(value.value)
    return CudaDevice(name.value.decode(errors="replace"), (capability[0], capability[1]), memory.value)
