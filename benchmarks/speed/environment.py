"""The machine and the versions that a measurement was made with."""

from __future__ import annotations

import datetime
import platform
import resource
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from ...runtime.cpu.onnxruntime_engine import import_onnxruntime
from ...runtime.settings import available_cores


@dataclass(frozen=True, slots=True)
class Environment:
    """Where and with what; `cores` are those that the process may use, `torch` is None where it took no part."""

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

    @classmethod
    def current(cls, *, with_torch: bool) -> Self:
        """Of this process."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            machine=platform.machine(),
            processor=_processor(),
            cores=available_cores(),
            system=platform.platform(),
            python=platform.python_version(),
            jointrt=_version("jointrt"),
            onnxruntime=import_onnxruntime().__version__,
            openvino=_version("openvino"),
            numpy=_version("numpy"),
            torch=_version("torch") if with_torch else None,
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def peak_mb() -> float:
    """Largest resident set of the process so far; macOS counts bytes, others KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def resident_mb() -> float | None:
    """Resident set of the process now; None where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        return None
    return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
