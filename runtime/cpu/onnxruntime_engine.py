"""One graph in ONNX Runtime on the CPU, with inputs and outputs in memory that the caller keeps."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import BundleError, DependencyError
from ..manifest import GraphRecord


def import_onnxruntime() -> Any:
    """The onnxruntime module.

    Raises:
        DependencyError: it is not installed; names the extras that bring it.
    """
    try:
        module = importlib.import_module("onnxruntime")
        module.InferenceSession  # noqa: B018 - a half-removed installation imports as an empty namespace
    except (ImportError, AttributeError):
        raise DependencyError(
            "ONNX Runtime is not installed: install it with `pip install 'jointrt[cpu]'`, or for CUDA with "
            "`pip install 'jointrt[gpu]'`; never both, as they overwrite one another"
        ) from None
    return module


_LOADING = threading.Lock()
# Weights in fp32 between 8-bit layers would be given one 8-bit scale for all their channels. That is too coarse for
# those that a bundle leaves in fp32.
_DISABLED = ["WeightBiasQuantization"]


class Buffer:
    """An array that an engine reads or fills."""

    __slots__ = ("_value", "array")

    def __init__(self, array: NDArray[np.float32]) -> None:
        if not array.flags.c_contiguous:
            raise ValueError("an engine's buffer must be contiguous")
        self.array = array
        self._value: Any = None

    @property
    def value(self) -> Any:
        """ONNX Runtime's view of the same memory, made when it is first asked for."""
        if self._value is None:
            self._value = import_onnxruntime().OrtValue.ortvalue_from_numpy(self.array)
        return self._value

    @classmethod
    def zeros(cls, *shape: int) -> Buffer:
        """A new buffer of zeros, fp32."""
        return cls(np.zeros(shape, np.float32))


class Runnable(Protocol):
    """A loaded graph, whatever runs it."""

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Read the inputs' memory, fill the outputs'."""


@cache
def _share_scratch() -> None:
    """One arena for the scratch memory of all engines of the process, which take turns.

    It takes what is asked for, not the next power of two.
    """
    ort = import_onnxruntime()
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    # Whoever else uses ONNX Runtime in this process may have registered one.
    with contextlib.suppress(RuntimeError):
        ort.create_and_register_allocator(place, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


class Engine:
    """A graph in ONNX Runtime; its buffers are bound at each call, nothing is copied or allocated."""

    def __init__(self, path: Path, record: GraphRecord, threads: int) -> None:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # A bundle's engines take turns on the same cores: one that has finished must not spin on them, and its scratch
        # memory is the next one's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        with _LOADING:
            _share_scratch()
        options.add_session_config_entry("session.use_env_allocators", "1")
        # One block for all of a call's scratch memory does not come from a shared arena, but anew from the system.
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        try:
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
            )
        except Exception as error:
            raise BundleError(f"{path} does not load in ONNX Runtime {ort.__version__}: {str(error)[:200]}") from None
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        check_ports(session_shapes(inputs), session_shapes(outputs), path, record)
        self._binding = self.session.io_binding()

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Read the inputs' memory, fill the outputs'."""
        for name, buffer in inputs.items():
            self._binding.bind_ortvalue_input(name, buffer.value)
        for name, buffer in outputs.items():
            self._binding.bind_ortvalue_output(name, buffer.value)
        self.session.run_with_iobinding(self._binding)


def session_shapes(nodes: Iterable[Any]) -> dict[str, tuple[int | str, ...]]:
    """Shapes of a session's inputs or outputs by name."""
    return {node.name: tuple(node.shape) for node in nodes}


def check_ports(
    inputs: Mapping[str, tuple[int | str, ...]],
    outputs: Mapping[str, tuple[int | str, ...]],
    path: Path,
    record: GraphRecord,
) -> None:
    """Compare the graph of a file with the manifest.

    Raises:
        BundleError: they differ.
    """
    for kind, ports, found in (("input", record.inputs, inputs), ("output", record.outputs, outputs)):
        expected = {port.name: port.shape for port in ports}
        if set(found) != set(expected):
            raise BundleError(
                f"{path}: {kind}s are {sorted(found)}, the manifest says {sorted(expected)}; export it again"
            )
        for name, shape in expected.items():
            fits = len(shape) == len(found[name]) and all(
                not isinstance(a, int) or not isinstance(b, int) or a == b
                for a, b in zip(shape, found[name], strict=True)
            )
            if not fits:
                raise BundleError(
                    f"{path}: {kind} {name!r} has shape {found[name]}, the manifest says {shape}; export it again"
                )
