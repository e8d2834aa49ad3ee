"""What runs a bundle of ONNX graphs on the CPU: ONNX Runtime or OpenVINO."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from .bundle import Bundle
from .clock import StageClock
from .engine import Engine, Runnable
from .errors import DeviceError
from .onnx_network import OnnxNetwork, used_graphs
from .openvino_engine import CONVOLUTIONS, HINTS, OpenVinoEngine
from .settings import Settings

CPU_BACKENDS = ("onnxruntime", "openvino")


def split_backend(backend: str) -> tuple[str, str | None]:
    """Name and precision of "NAME" or "NAME:PRECISION"."""
    name, _, precision = backend.partition(":")
    return name, precision or None


def choose_cpu_backend(bundle: Bundle, backend: str, precision: str | None = None) -> tuple[str, str, str]:
    """Backend, the precision of what the graphs hold in fp32, and a line that says both and why.

    "auto" takes OpenVINO for graphs in 8 bits, where it is installed; those in fp32 it runs no faster. bf16 changes
    masks and is never taken unless asked for.

    Args:
        bundle: of ONNX graphs.
        backend: "auto" or one of `CPU_BACKENDS`; "openvino:bf16" as with `precision`.
        precision: "fp32" or "bf16"; fp32 if None and the backend names none.

    Raises:
        DeviceError: the backend does not compute in this precision.
    """
    why = ""
    backend, suffix = split_backend(backend)
    precision = precision or suffix
    if backend == "auto":
        faster = bundle.manifest.precision == "int8" and importlib.util.find_spec("openvino") is not None
        backend, why = ("openvino", ": faster in 8 bits") if faster else ("onnxruntime", "")
    known = tuple(HINTS) if backend == "openvino" else ("fp32",)
    if precision not in (None, *known):
        raise DeviceError(f"backend {backend} cannot compute in {precision} on the CPU: expected {' or '.join(known)}")
    if backend == "onnxruntime":
        return backend, "fp32", "ONNX Runtime on the CPU"
    note = ", bf16," if precision == "bf16" else ""
    return backend, precision or "fp32", f"OpenVINO{note} on the CPU{why}"


def load_cpu_network(
    bundle: Bundle, settings: Settings, clock: StageClock, backend: str, precision: str | None = None
) -> tuple[OnnxNetwork, str]:
    """A bundle's graphs, loaded, and a line that says what runs them; see `choose_cpu_backend`."""
    chosen, computed, runs_on = choose_cpu_backend(bundle, backend, precision)
    names = used_graphs(bundle, settings.branches)
    load = partial(load_engine, bundle, threads=settings.threads, backend=f"{chosen}:{computed}")
    with ThreadPoolExecutor(settings.threads) as pool:
        engines = dict(zip(names, pool.map(load, names), strict=True))
    return OnnxNetwork(bundle, settings, clock, engines), runs_on


def load_engine(bundle: Bundle, name: str, threads: int, backend: str, objects: int = 1) -> Runnable:
    """One of a bundle's graphs, for calls of so many objects."""
    record = bundle.manifest.graphs[name]
    chosen, precision, _ = choose_cpu_backend(bundle, backend)
    path = bundle.path(record.file)
    if chosen == "openvino":
        return OpenVinoEngine(path, record, threads, precision, objects, convolutions=name in CONVOLUTIONS)
    return Engine(path, record, threads)
