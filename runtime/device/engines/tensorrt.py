"""Engines of TensorRT and TensorRT-RTX behind `device_engine`'s protocol, by one path for both.

Every binding has an execution context of its own; all contexts share one scratch memory, as they run one after another.
Every value that the library returns is looked at, and after calls that return none its messages: a refused call
otherwise leaves stale results without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ....errors import BundleError, DeviceError, SettingsError
from ...bundle import Bundle
from ...manifest import GraphRecord, Port
from ...settings import Settings
from ..cuda_driver import device_ordinal, query_cuda_driver
from .library import MODULES, TensorRTBackend, check_engines, error_logger, import_tensorrt, query_tensorrt
from .protocol import UNUSED, DeviceArray, DType, check_arrays

Allocate = Callable[[tuple[int, ...], DType], DeviceArray]
"""Shape and type -> memory on the device, aligned to 256 bytes."""


class Scratch:
    """Memory for what contexts compute in between; those that share it must never run at the same time."""

    def __init__(self, allocate: Allocate) -> None:
        self._allocate = allocate
        self._block: DeviceArray | None = None

    def block(self, size: int) -> DeviceArray:
        """At least so many bytes. A larger block leaves the earlier one to the contexts that have it."""
        if self._block is None or 4 * self._block.shape[0] < size:
            self._block = self._allocate((-(-max(size, 256) // 4),), "float32")
        return self._block


class TensorRTGraph:
    """A context with its addresses; see `device_engine.BoundGraph`."""

    def __init__(self, context: Any, name: str, messages: list[str], owners: tuple[object, ...]) -> None:
        self._context = context
        self._name = name
        self._messages = messages
        self._owners = owners

    def enqueue(self, stream: int) -> None:
        """Start computing on a stream; outside of a capture as within one, a refusal is an error."""
        self._messages.clear()
        if not self._context.execute_async_v3(stream):
            raise DeviceError(f"{self._name}: the engine refused to run: {'; '.join(self._messages)[:300]}")


class TensorRTEngine:
    """A loaded engine; see `device_engine.DeviceEngine`.

    Attributes:
        ports: inputs and outputs by name.
        max_batch: largest number of objects in one call.
        capturable: its calls may be captured in a CUDA graph.
        in_place: see `protocol.DeviceEngine`.
    """

    capturable = True
    in_place = False

    def __init__(
        self,
        trt: Any,
        engine: Any,
        path: Path,
        record: GraphRecord,
        max_batch: int,
        scratch: Scratch,
        messages: list[str],
        owners: tuple[object, ...] = (),
    ) -> None:
        self._trt, self._engine, self._path = trt, engine, path
        self._scratch, self._messages = scratch, messages
        # The library's objects must not outlive the logger.
        self._owners = owners
        self._runtime_config: Any = None
        self.max_batch = max_batch
        self.ports: dict[str, Port] = {port.name: port for port in (*record.inputs, *record.outputs)}
        self._inputs = [port.name for port in record.inputs]
        self._check_ports()

    def bind(self, arrays: Mapping[str, DeviceArray]) -> TensorRTGraph:
        """A new context with the arrays' shapes and addresses.

        Raises:
            BundleError: a name, shape or type does not fit the graph.
            DeviceError: the library refuses a context or an address.
        """
        check_arrays(self._path.name, self.ports.values(), arrays)
        batch = next(arrays[port.name].shape[0] for port in self.ports.values())
        if not 1 <= batch <= self.max_batch:
            raise BundleError(f"{self._path} is bound for {batch} objects: expected 1 to {self.max_batch}")
        context = self._new_context()
        for name in self._inputs:
            if not context.set_input_shape(name, arrays[name].shape):
                raise BundleError(f"{self._path} refuses shape {arrays[name].shape} of {name!r}: {self._words()}")
        self._infer_shapes(context)
        for name, array in arrays.items():
            if tuple(context.get_tensor_shape(name)) != array.shape:
                found = tuple(context.get_tensor_shape(name))
                raise BundleError(f"{self._path}: {name!r} has shape {found}, {array.shape} is bound to it")
            if not context.set_tensor_address(name, array.address):
                raise DeviceError(f"{self._path} refuses the address of {name!r}: {self._words()}")
        size = context.update_device_memory_size_for_shapes()
        block = self._scratch.block(size)
        context.set_device_memory(block.address, 4 * block.shape[0])
        if self._messages:
            raise DeviceError(f"{self._path} refuses {size} bytes of scratch memory: {self._words()}")
        return TensorRTGraph(context, self._path.name, self._messages, (self._owners, block, *arrays.values()))

    def _infer_shapes(self, context: Any) -> None:
        """From the inputs' shapes to all others."""
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:
            raise BundleError(f"{self._path}: shapes do not fit ({str(error)[:200]}): build it again") from None
        if missing:
            raise BundleError(f"{self._path} lacks the shapes of {', '.join(missing)}: build it again")

    def _new_context(self) -> Any:
        """A context whose scratch memory is given to it later."""
        trt = self._trt
        self._messages.clear()
        if hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
            self._runtime_config = self._runtime_config or self._new_runtime_config()
            context = self._engine.create_execution_context(self._runtime_config)
        else:
            context = self._engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise DeviceError(f"{self._path}: no execution context could be made: {self._words()}")
        return context

    def _new_runtime_config(self) -> Any:
        """What all contexts of a TensorRT-RTX engine share, so that each kernel is compiled once."""
        trt = self._trt
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Compiled at the first call, not beside later ones, where a captured graph would keep the slow kernels that
        # stand in until then.
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        cache = config.create_runtime_cache()
        if not config.set_runtime_cache(cache):
            raise DeviceError(f"{self._path}: no cache for kernels could be made: {self._words()}")
        self._owners = (*self._owners, cache)
        return config

    def _check_ports(self) -> None:
        """The engine's own tensors against the manifest."""
        trt, engine = self._trt, self._engine
        kinds = {trt.DataType.FLOAT: "float32", trt.DataType.HALF: "float16"}
        modes = {trt.TensorIOMode.INPUT: "input", trt.TensorIOMode.OUTPUT: "output"}
        found = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            found[name] = (modes[engine.get_tensor_mode(name)], kinds.get(engine.get_tensor_dtype(name)))
        expected = {n: ("input" if n in self._inputs else "output", port.dtype) for n, port in self.ports.items()}
        if found != expected:
            raise BundleError(f"{self._path} has tensors {found}, the manifest says {expected}: build it again")

    def _words(self) -> str:
        return "; ".join(self._messages)[:300] or "no reason given"


def load_engines(bundle: Bundle, settings: Settings, *, device: str, allocate: Allocate) -> dict[str, TensorRTEngine]:
    """The engines that the branches need, by graph. The device's primary context must be current.

    Args:
        bundle: of TensorRT engines.
        settings: branches, and a memory of no more than the bundle's capacity.
        device: "cuda" or "cuda:N".
        allocate: where scratch memory comes from.

    Raises:
        BundleError: it holds no TensorRT engines, those of another version, or damaged ones.
        DependencyError: the library is not installed.
        DeviceError: driver or GPU do not fit.
        SettingsError: the memory is larger than the engines'.
    """
    manifest = bundle.manifest
    if manifest.backend not in MODULES or manifest.tensorrt is None:
        raise BundleError(
            f"{bundle.folder} holds {manifest.backend} graphs, no TensorRT engines: build them with "
            "`jointrt build ONNX_BUNDLE --backend tensorrt`"
        )
    capacity = manifest.defaults.memory
    if settings.memory > capacity:
        raise SettingsError(
            f"memory is {settings.memory}, the engines of {bundle.folder} hold {capacity} frames: give less, or build "
            f"them with `jointrt build ONNX_BUNDLE --backend {manifest.backend} --memory {settings.memory}`"
        )
    backend: TensorRTBackend = "tensorrt" if manifest.backend == "tensorrt" else "tensorrt-rtx"
    library, driver = query_tensorrt(backend), query_cuda_driver()
    check_engines(manifest.tensorrt, library, driver, device_ordinal(device), str(bundle.folder))
    trt, messages = import_tensorrt(backend), list[str]()
    logger = error_logger(trt, messages)
    runtime = trt.Runtime(logger)
    scratch, owners = Scratch(allocate), (logger, runtime)
    engines = {}
    for name, record in manifest.graphs.items():
        if name in UNUSED[settings.branches]:
            continue
        path = bundle.path(record.file)
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise BundleError(
                f"{path} does not load in {library.backend} {library.version}: {'; '.join(messages)[:300]}"
            )
        most = manifest.tensorrt.objects[2]
        engines[name] = TensorRTEngine(trt, engine, path, record, most, scratch, messages, owners)
    return engines
