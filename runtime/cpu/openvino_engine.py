"""One graph in OpenVINO on the CPU."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import BundleError, DependencyError, DeviceError
from ..manifest import GraphRecord
from .onnxruntime_engine import Buffer, check_ports

CONVOLUTIONS = ("backbone", "label_encoder", "decoder")
"""Graphs of convolutions; the others are of matrix products."""
HINTS = {"fp32": "f32", "bf16": "bf16"}
"""What OpenVINO calls the precision in which it computes what a graph has in fp32."""


_REPORTS = "openvino_telemetry"


def import_openvino() -> Any:
    """The openvino module, without its usage reports.

    Its import sends one to Google and leaves an identifier in the user's home. Where its package for that is missing,
    it does without, so that package is hidden meanwhile; one that is loaded already stays as it is.

    Raises:
        DependencyError: it is not installed.
    """
    hidden = _REPORTS not in sys.modules
    if hidden:
        sys.modules[_REPORTS] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise DependencyError(
            "OpenVINO is not installed: install it with `pip install 'jointrt[openvino]'`, or use --backend onnxruntime"
        ) from None
    finally:
        if hidden:
            sys.modules.pop(_REPORTS, None)


_LOADING = threading.Lock()


def shared_core() -> Any:
    """The process's one `openvino.Core`.

    A core's CPU plugin replaces the alternate signal stack of the thread that loads it. When it goes, it unmaps its own
    and puts back the one it found (OpenVINO's `sigstack_manager.cpp`). Once two cores went in the order in which they
    came, or one went in another thread, the next signal is written over whatever lies at that address by then. So there
    is one core, which stays, and the thread that loads it ends.

    Raises:
        DependencyError: OpenVINO is not installed.
    """
    with _LOADING:
        return _load_core()


@cache
def _load_core() -> Any:
    openvino = import_openvino()
    with ThreadPoolExecutor(1) as thread:
        core = thread.submit(openvino.Core).result()
        # The plugin is loaded as it is asked for the first time.
        thread.submit(core.get_property, "CPU", "FULL_DEVICE_NAME").result()
    return core


def computes_bf16() -> bool:
    """Whether this processor has products in bf16, which OpenVINO then uses.

    Raises:
        DependencyError: OpenVINO is not installed.
    """
    return "BF16" in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """A graph in OpenVINO, for calls of so many objects; it reads and writes memory that the caller keeps."""

    def __init__(
        self, path: Path, record: GraphRecord, threads: int, precision: str, objects: int, *, convolutions: bool
    ) -> None:
        self._openvino = import_openvino()
        if precision == "bf16" and not computes_bf16():
            raise DeviceError("this processor has no bf16 products, which OpenVINO would use: use --backend openvino")
        try:
            model = shared_core().read_model(str(path))
            check_ports(_shapes(model.inputs), _shapes(model.outputs), path, record)
            model.reshape({port.name: _opened(port.shape, objects) for port in record.inputs})
            self._request = compile_model(model, threads, precision, convolutions).create_infer_request()
        except RuntimeError as error:
            version = self._openvino.__version__
            raise BundleError(f"{path} does not load in OpenVINO {version}: {str(error)[:200]}") from None

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Read the inputs' memory, fill the outputs'."""
        for name, buffer in (*inputs.items(), *outputs.items()):
            self._request.set_tensor(name, self._openvino.Tensor(buffer.array, shared_memory=True))
        self._request.infer()


def compile_model(model: Any, threads: int, precision: str, convolutions: bool) -> Any:
    """A model compiled for single calls in turn with other engines on the same cores.

    Args:
        model: as read.
        threads: that a call may use.
        precision: of `HINTS`.
        convolutions: whether it is one of those, not of matrix products.
    """
    return shared_core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            # Processes side by side would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            # Fused exponentials would want affinities laid out otherwise than the products before and after them.
            "SNIPPETS_MODE": "ENABLE" if convolutions else "DISABLE",
        },
    )


def _opened(shape: Sequence[int | str], objects: int) -> list[int]:
    """Only the number of samples stays open."""
    return [objects if axis == 0 else -1 if isinstance(n, str) else n for axis, n in enumerate(shape)]


def _shapes(ports: list[Any]) -> dict[str, tuple[int | str, ...]]:
    """Shapes by name; an axis that is not fixed has no name in OpenVINO."""
    return {
        port.get_any_name(): tuple("" if axis.is_dynamic else axis.get_length() for axis in port.partial_shape)
        for port in ports
    }
