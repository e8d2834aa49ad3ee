"""Which TensorRT libraries there are, and whether engines that one of them built can run here.

A TensorRT runtime that is created without a driver ends the process, so everything is asked before one is made.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from ....errors import BundleError, DependencyError, DeviceError
from ...manifest import TensorRTRecord
from ..cuda_driver import CudaDevice, CudaDriver

TensorRTBackend = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[TensorRTBackend, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Backends and the Python module of each."""


def import_tensorrt(backend: TensorRTBackend) -> Any:
    """The Python module of a backend; importing it needs no GPU.

    Raises:
        DependencyError: it is not installed; names the extra that brings it.
    """
    try:
        module = importlib.import_module(MODULES[backend])
        module.Builder  # noqa: B018 - a half-removed installation imports as an empty namespace
    except (ImportError, AttributeError, OSError) as error:
        found = str(error).splitlines()[0][:120] if str(error) else "not found"
        raise DependencyError(
            f"{backend} cannot be imported ({found}): install it with `pip install 'jointrt[{backend}]'`"
        ) from None
    return module


def error_logger(trt: Any, messages: list[str]) -> Any:
    """A logger that appends errors to a list, for the message of a failure, and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.append(message)

    return Logger()


@dataclass(frozen=True, slots=True)
class TensorRTLibrary:
    """One installed library, or why it is not.

    Attributes:
        backend: which one.
        version: of the library; None where it cannot be imported.
        cuda: major version of CUDA that it was made for; None where the installation does not say.
        problem: why it cannot be imported; None if it can.
    """

    backend: TensorRTBackend
    version: str | None
    cuda: int | None
    problem: str | None


def query_tensorrt(backend: TensorRTBackend) -> TensorRTLibrary:
    """Import a library and ask its version; needs no driver."""
    try:
        version: str = import_tensorrt(backend).__version__
    except DependencyError as error:
        return TensorRTLibrary(backend, None, None, str(error))
    return TensorRTLibrary(backend, version, _cuda_major(backend), None)


def _cuda_major(backend: TensorRTBackend) -> int | None:
    for major in range(11, 20):
        with suppress(metadata.PackageNotFoundError):
            metadata.version(f"{backend}-cu{major}")
            return major
    return None


def check_library(library: TensorRTLibrary, driver: CudaDriver, ordinal: int = 0) -> CudaDevice:
    """The GPU of that number, once library and driver fit each other.

    Raises:
        DependencyError: the library is not installed.
        DeviceError: there is no driver or no such GPU, or the driver is older than the library needs.
    """
    if library.problem is not None:
        raise DependencyError(library.problem)
    if driver.problem is not None:
        raise DeviceError(f"{library.backend} cannot run here: {driver.problem}; use the ONNX bundle with --device cpu")
    assert driver.cuda_version is not None
    if library.cuda is not None and driver.cuda_version[0] < library.cuda:
        major, minor = driver.cuda_version
        raise DeviceError(
            f"the NVIDIA driver runs CUDA up to {major}.{minor}, {library.backend} {library.version} needs "
            f"{library.cuda}: update the driver, or `pip install {library.backend}-cu{major}` and build again"
        )
    if ordinal >= len(driver.devices):
        raise DeviceError(f"device cuda:{ordinal} does not exist: this process sees {len(driver.devices)} GPU(s)")
    return driver.devices[ordinal]


def check_engines(
    record: TensorRTRecord, library: TensorRTLibrary, driver: CudaDriver, ordinal: int = 0, folder: str = "the bundle"
) -> None:
    """Refuse engines that cannot run here, from facts alone: nothing is loaded.

    Args:
        record: what the manifest says of the build.
        library: of the bundle's backend.
        driver: of this machine.
        ordinal: which GPU.
        folder: of the bundle, for messages.

    Raises:
        BundleError: they were built with another version of the library.
        DependencyError: the library is not installed.
        DeviceError: driver or GPU do not fit.
    """
    device = check_library(library, driver, ordinal)
    major, minor = device.compute_capability
    capability = 10 * major + minor
    again = f"`jointrt build ONNX_BUNDLE --backend {library.backend} --out {folder} --overwrite`"
    if capability not in record.compute_capabilities:
        built = ", ".join(f"sm{n}" for n in record.compute_capabilities)
        raise DeviceError(
            f"{folder} was built for {built}, {device.name} is sm{capability}: run {again} on this machine"
        )
    if library.version != record.version:
        raise BundleError(
            f"{folder} was built with {library.backend} {record.version}, installed is {library.version}: run {again}, "
            f"or `pip install {library.backend}=={record.version}`"
        )
