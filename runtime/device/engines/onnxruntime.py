"""ONNX Runtime on a device: graphs of fixed memory, inputs and outputs bound to addresses, no copy by the host.

On a GPU the work goes to the caller's stream and the run returns without waiting. It is not captured in a CUDA graph of
the caller's: the runtime takes scratch memory from an arena of its own while it runs and chooses kernels per call, so
that nothing says that a replay would meet the same memory. On the CPU the same class runs the same graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ....errors import BundleError, DeviceError
from ...bundle import Bundle
from ...cpu.onnxruntime_engine import check_ports, import_onnxruntime, session_shapes
from ...manifest import GraphRecord, Port
from ...settings import Settings
from .protocol import BoundGraph, DeviceArray, DeviceEngine, check_arrays

_TYPES = {"float32": np.float32, "float16": np.float16}


class OnnxDeviceEngine:
    """One graph; see `device_engine.DeviceEngine`."""

    max_batch: int | None = None
    capturable = False
    in_place = False

    def __init__(self, bundle: Bundle, name: str, record: GraphRecord, options: Any, provider: Any) -> None:
        ort = import_onnxruntime()
        path = bundle.path(record.file)
        self.name = name
        self.ports: Mapping[str, Port] = {port.name: port for port in (*record.inputs, *record.outputs)}
        self.inputs = {port.name for port in record.inputs}
        try:
            self.session = ort.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:
            raise BundleError(f"{path} does not load in ONNX Runtime {ort.__version__}: {str(error)[:200]}") from None
        wanted = provider[0] if isinstance(provider, tuple) else provider
        if wanted not in self.session.get_providers():
            raise DeviceError(
                f"ONNX Runtime {ort.__version__} does not run on this GPU (it falls back to "
                f"{', '.join(self.session.get_providers())}): CUDA and cuDNN of its version are needed, as "
                "`pip install 'jointrt[gpu]'` brings them with torch"
            )
        self.device = "cuda" if wanted.startswith("CUDA") else "cpu"
        self.device_id = int(provider[1]["device_id"]) if isinstance(provider, tuple) else 0
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        check_ports(session_shapes(inputs), session_shapes(outputs), path, record)
        self.run_options = ort.RunOptions()
        # Who comes next is on the same stream.
        self.run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, arrays: Mapping[str, DeviceArray]) -> BoundGraph:
        """See `device_engine.DeviceEngine`."""
        check_arrays(self.name, self.ports.values(), arrays)
        binding = self.session.io_binding()
        for name, array in arrays.items():
            bind = binding.bind_input if name in self.inputs else binding.bind_output
            bind(name, self.device, self.device_id, _TYPES[array.dtype], array.shape, array.address)
        return _Binding(self, binding, tuple(array.owner for array in arrays.values()))


class _Binding:
    """A session's inputs and outputs, and what keeps their memory alive."""

    def __init__(self, engine: OnnxDeviceEngine, binding: Any, owners: tuple[object, ...]) -> None:
        self.engine, self.binding, self.owners = engine, binding, owners

    def enqueue(self, stream: int) -> None:
        """Run on the stream that the session was made with."""
        del stream
        try:
            self.engine.session.run_with_iobinding(self.binding, self.engine.run_options)
        except Exception as error:
            raise DeviceError(f"graph {self.engine.name!r} failed in ONNX Runtime: {str(error)[:200]}") from None


def load_engines(bundle: Bundle, settings: Settings, *, device: str, stream: int) -> dict[str, DeviceEngine]:
    """The graphs of a bundle that `jointrt build --backend onnxruntime` made.

    Args:
        bundle: one of fixed memory.
        settings: threads, on the CPU.
        device: "cuda", "cuda:1", ..., "cpu".
        stream: handle of the stream that all work goes to.

    Raises:
        BundleError: a graph does not load.
        DependencyError: ONNX Runtime is not installed.
        DeviceError: it cannot use the GPU.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if device == "cpu":
        options.intra_op_num_threads = settings.threads
        options.add_session_config_entry("session.force_spinning_stop", "1")
        provider: Any = "CPUExecutionProvider"
    else:
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise DeviceError(
                f"ONNX Runtime {ort.__version__} here is the package for CPUs: uninstall onnxruntime, then "
                "`pip install 'jointrt[gpu]'`"
            )
        ort.preload_dlls()
        provider = ("CUDAExecutionProvider", _cuda_options(device, stream, bundle.manifest.precision))
    return {
        name: OnnxDeviceEngine(bundle, name, record, options, provider)
        for name, record in bundle.manifest.graphs.items()
    }


def _cuda_options(device: str, stream: int, precision: str) -> dict[str, str]:
    """TF32 has fp16's mantissa: in a half-precision bundle the few-shot learner may use it, in an fp32 one nothing."""
    return {
        "device_id": device.partition(":")[2] or "0",
        "user_compute_stream": str(stream),
        "use_tf32": "0" if precision == "fp32" else "1",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",
    }
