"""A bundle's ONNX graphs, loaded on the CPU."""

from __future__ import annotations

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ..backends import Choice, Name
from ..bundle import Bundle
from ..clock import StageClock
from ..settings import Settings
from .network import OnnxNetwork, used_graphs
from .onnxruntime_engine import Engine, Runnable
from .openvino_engine import CONVOLUTIONS, OpenVinoEngine


def load_engine(bundle: Bundle, choice: Choice, graph: str, threads: int, objects: int = 1) -> Runnable:
    """One of a bundle's graphs, for calls of so many objects.

    Raises:
        BundleError: it does not load.
        DependencyError: the library is not installed.
        DeviceError: the processor does not compute in the choice's precision.
    """
    record = bundle.manifest.graphs[graph]
    path = bundle.path(record.file)
    if choice.name is Name.OPENVINO:
        return OpenVinoEngine(path, record, threads, choice.precision, objects, convolutions=graph in CONVOLUTIONS)
    return Engine(path, record, threads)


def load_network(bundle: Bundle, choice: Choice, settings: Settings, clock: StageClock) -> OnnxNetwork:
    """The graphs that the settings' branches need, loaded beside one another."""
    names = used_graphs(bundle, settings.branches, settings.share)
    with ThreadPoolExecutor(settings.threads) as pool:
        load = partial(load_engine, bundle, choice, threads=settings.threads)
        engines = dict(zip(names, pool.map(load, names), strict=True))
    _give_back_heap()
    return OnnxNetwork(bundle, settings, clock, engines)


def _give_back_heap() -> None:
    """What was read and laid out anew as the engines were loaded is free, but glibc keeps it: 220 MB for `paper`."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
