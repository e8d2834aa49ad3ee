"""The machine and the versions that a measurement was made with."""

from __future__ import annotations

import datetime
import platform
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from ...runtime.device.readiness import device_name
from ...runtime.settings import available_cores
from ...runtime.worker_shape import processor

try:
    import resource
except ModuleNotFoundError:
    # Windows has no such module, and no figures from it.
    resource = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what.

    Attributes:
        cores: that the process may use.
        torch: its version; None where it took no part.
        gpu: its name; None where everything ran on the CPU.
    """

    date: str
    machine: str
    processor: str
    cores: int
    system: str
    python: str
    jointrt: str
    onnxruntime: str
    openvino: str
    numpy: str
    torch: str | None
    gpu: str | None = None

    @classmethod
    def current(cls, device: str, *, with_torch: bool) -> Self:
        """Of this process, for what runs on a device."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=platform.machine(),
            processor=processor(),
            cores=available_cores(),
            system=platform.platform(),
            python=platform.python_version(),
            jointrt=_version("jointrt"),
            onnxruntime=_version("onnxruntime", "onnxruntime-gpu"),
            openvino=_version("openvino"),
            numpy=_version("numpy"),
            torch=_version("torch") if with_torch else None,
            gpu=None if device == "cpu" else device_name(device),
        )


def _version(*packages: str) -> str:
    """Of the first that is installed."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return "not installed"


def peak_mb() -> float | None:
    """Largest resident set of the process so far; macOS counts bytes, others KiB; None where the system has no such."""
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def resident_mb() -> float | None:
    """Resident set of the process now; None where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return None
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6


def private_and_shared_mb() -> tuple[float, float] | None:
    """MB resident that this process has for itself, and those that it shares; None where the system does not say."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.is_file():
        return None
    held = dict(line.split(":", 1) for line in rollup.read_text().splitlines()[1:])
    private, shared = (
        sum(int(text.split()[0]) for name, text in held.items() if name.startswith(kind)) / 1e3
        for kind in ("Private_", "Shared_")
    )
    return private, shared
