"""One graph in ONNX Runtime, with inputs and outputs in memory that the caller keeps."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BundleError, DependencyError
from .manifest import GraphRecord


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


# Weights in fp32 between 8-bit layers would be given one 8-bit scale for all their channels. That is too coarse for
# those that a bundle leaves in fp32.
_DISABLED = ["WeightBiasQuantization"]


class Buffer:
    """An array and ONNX Runtime's view of the same memory."""

    __slots__ = ("array", "value")

    def __init__(self, array: NDArray[np.float32]) -> None:
        if not array.flags.c_contiguous:
            raise ValueError("an engine's buffer must be contiguous")
        self.array = array
        self.value = import_onnxruntime().OrtValue.ortvalue_from_numpy(array)

    @classmethod
    def zeros(cls, *shape: int) -> Buffer:
        """A new buffer of zeros, fp32."""
        return cls(np.zeros(shape, np.float32))


class Engine:
    """A loaded graph; its buffers are bound at each call, nothing is copied or allocated."""

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
        options.enable_cpu_mem_arena = True
        try:
            self.session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_DISABLED
            )
        except Exception as error:
            raise BundleError(f"{path} does not load in ONNX Runtime {ort.__version__}: {str(error)[:200]}") from None
        self.shapes = check_ports(self.session, path, record)
        self._binding = self.session.io_binding()

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Read the inputs' memory, fill the outputs'."""
        for name, buffer in inputs.items():
            self._binding.bind_ortvalue_input(name, buffer.value)
        for name, buffer in outputs.items():
            self._binding.bind_ortvalue_output(name, buffer.value)
        self.session.run_with_iobinding(self._binding)


def check_ports(session: Any, path: Path, record: GraphRecord) -> dict[str, tuple[int | str, ...]]:
    """Shapes by name, after a comparison of the graph with the manifest.

    Raises:
        BundleError: they differ.
    """
    shapes: dict[str, tuple[int | str, ...]] = {}
    for kind, ports, nodes in (
        ("input", record.inputs, session.get_inputs()),
        ("output", record.outputs, session.get_outputs()),
    ):
        found = {node.name: tuple(node.shape) for node in nodes}
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
            shapes[name] = shape
    return shapes
