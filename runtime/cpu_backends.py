"""What runs a bundle of ONNX graphs on the CPU: ONNX Runtime or OpenVINO."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from ..errors import DeviceError
from .bundle import Bundle
from .clock import StageClock
from .cpu.network import OnnxNetwork, used_graphs
from .cpu.onnxruntime_engine import Engine, Runnable
from .cpu.openvino_engine import CONVOLUTIONS, HINTS, OpenVinoEngine
from .settings import Settings

CPU_BACKENDS = ("onnxruntime", "openvino")


def split_backend(backend: str) -> tuple[str, str | None]:
    """Name and precision of "NAME" or "NAME:PRECISION"."""
    name, _, precision = backend.partition(":")
    return name, precision or None


@dataclass(frozen=True, slots=True)
class CpuBackend:
    """What runs graphs; as text, what `split_backend` reads.

    Attributes:
        name: of `CPU_BACKENDS`.
        precision: in which it computes what the graphs hold in fp32, "fp32" or "bf16".
        why: why it was chosen; empty where it was asked for or is usual.
    """

    name: str
    precision: str = "fp32"
    why: str = ""

    def __str__(self) -> str:
        return self.name if self.precision == "fp32" else f"{self.name}:{self.precision}"

    @property
    def runs_on(self) -> str:
        """As a user reads it."""
        title = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[self.name]
        note = "" if self.precision == "fp32" else f", {self.precision},"
        return f"{title}{note} on the CPU" + (f": {self.why}" if self.why else "")

    def load(self, bundle: Bundle, graph: str, threads: int, objects: int = 1) -> Runnable:
        """One of a bundle's graphs, for calls of so many objects."""
        record = bundle.manifest.graphs[graph]
        path = bundle.path(record.file)
        if self.name == "openvino":
            return OpenVinoEngine(path, record, threads, self.precision, objects, convolutions=graph in CONVOLUTIONS)
        return Engine(path, record, threads)


def choose_cpu_backend(bundle: Bundle, backend: str, precision: str | None = None) -> CpuBackend:
    """What runs a bundle.

    "auto" takes OpenVINO for graphs in 8 bits, where it is installed; those in fp32 it runs no faster. bf16 changes
    masks and is never taken unless asked for.

    Args:
        bundle: of ONNX graphs.
        backend: "auto" or one of `CPU_BACKENDS`; "openvino:bf16" as with `precision`.
        precision: "fp32" or "bf16"; fp32 if None and the backend names none.

    Raises:
        DeviceError: the backend does not compute in this precision.
    """
    name, suffix = split_backend(backend)
    precision, why = precision or suffix or "fp32", ""
    if name == "auto":
        faster = bundle.manifest.precision == "int8" and importlib.util.find_spec("openvino") is not None
        name, why = ("openvino", "faster in 8 bits") if faster else ("onnxruntime", "")
    known = tuple(HINTS) if name == "openvino" else ("fp32",)
    if precision not in known:
        raise DeviceError(f"backend {name} cannot compute in {precision} on the CPU: expected {' or '.join(known)}")
    return CpuBackend(name, precision, why)


def load_cpu_network(bundle: Bundle, settings: Settings, clock: StageClock, backend: CpuBackend) -> OnnxNetwork:
    """A bundle's graphs, loaded beside one another."""
    names = used_graphs(bundle, settings.branches)
    with ThreadPoolExecutor(settings.threads) as pool:
        engines = pool.map(partial(backend.load, bundle, threads=settings.threads), names)
        return OnnxNetwork(bundle, settings, clock, dict(zip(names, engines, strict=True)))
