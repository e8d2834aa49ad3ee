from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from jointrt.errors import BundleError, DependencyError, DeviceError
from jointrt.runtime.device.cuda_driver import CudaDevice, CudaDriver, device_ordinal, query_cuda_driver
from jointrt.runtime.device.engines.library import TensorRTLibrary, check_engines, query_tensorrt
from jointrt.runtime.device.engines.protocol import DeviceArray
from jointrt.runtime.device.engines.tensorrt import Scratch, TensorRTEngine
from jointrt.runtime.manifest import GraphRecord, Port, TensorRTRecord

RECORD = TensorRTRecord(version="1.7.1", compute_capabilities=(89, 120), driver_cuda=None, objects=(1, 1, 4), flags=())
LIBRARY = TensorRTLibrary("tensorrt-rtx", "1.7.1", 13, None)
ADA, HOPPER = CudaDevice("Ada", (8, 9), 1 << 34), CudaDevice("Hopper", (9, 0), 1 << 36)
DRIVER = CudaDriver((13, 0), (ADA, HOPPER), None)


def test_engines_are_taken_where_everything_fits():
    check_engines(RECORD, LIBRARY, DRIVER)


@pytest.mark.parametrize(
    "library, driver, ordinal, error, says",
    [
        (TensorRTLibrary("tensorrt-rtx", None, None, "it is not there"), DRIVER, 0, DependencyError, "not there"),
        (LIBRARY, CudaDriver(None, (), "no NVIDIA driver"), 0, DeviceError, "no NVIDIA driver.*--device cpu"),
        (LIBRARY, CudaDriver((12, 4), (ADA,), None), 0, DeviceError, r"12\.4.*update the driver.*tensorrt-rtx-cu12"),
        (LIBRARY, DRIVER, 1, DeviceError, "sm89, sm120, Hopper is sm90: run `jointrt build"),
        (LIBRARY, DRIVER, 2, DeviceError, "cuda:2 does not exist"),
        (
            TensorRTLibrary("tensorrt-rtx", "1.8.0", 13, None),
            DRIVER,
            0,
            BundleError,
            r"1\.7\.1, installed is 1\.8\.0.*build .*install tensorrt-rtx==1\.7\.1",
        ),
    ],
)
def test_engines_that_cannot_run_here_are_refused_with_what_to_do(library, driver, ordinal, error, says):
    with pytest.raises(error, match=says) as caught:
        check_engines(RECORD, library, driver, ordinal)
    assert "\n" not in str(caught.value)


def test_devices_are_numbered():
    assert [device_ordinal("cuda"), device_ordinal("cuda:3")] == [0, 3]
    with pytest.raises(DeviceError, match="expected cuda"):
        device_ordinal("gpu0")


@pytest.mark.skipif(query_cuda_driver().problem is None, reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_without_a_driver_no_runtime_is_made(backend):
    """Making one would end the process."""
    with pytest.raises((DependencyError, DeviceError)):
        check_engines(RECORD, query_tensorrt(backend), query_cuda_driver())


PORTS = {"x": Port(name="x", shape=("B", 3), dtype="float16"), "y": Port(name="y", shape=("B", 2), dtype="float32")}


def record():
    return GraphRecord(file="g.engine", inputs=(PORTS["x"],), outputs=(PORTS["y"],))


def array(shape, dtype):
    return DeviceArray(4096, shape, dtype, None)


def test_every_name_that_is_used_exists_in_the_library():
    """The library's objects need a GPU; those that stand for them have its names and no others."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra tensorrt-rtx)")
    library, context = Mock(spec_set=trt.ICudaEngine), Mock(spec_set=trt.IExecutionContext)
    library.num_io_tensors = 2
    library.get_tensor_name.side_effect = "xy".__getitem__
    library.get_tensor_mode.side_effect = {"x": trt.TensorIOMode.INPUT, "y": trt.TensorIOMode.OUTPUT}.get
    library.get_tensor_dtype.side_effect = {"x": trt.DataType.HALF, "y": trt.DataType.FLOAT}.get
    library.create_runtime_config.return_value = Mock(spec_set=trt.IRuntimeConfig)
    library.create_execution_context.return_value = context
    context.infer_shapes.return_value = []
    context.get_tensor_shape.side_effect = {"x": (1, 3), "y": (1, 2)}.get
    context.update_device_memory_size_for_shapes.return_value = 1000
    engine = TensorRTEngine(trt, library, Path("g.engine"), record(), 4, Scratch(array), [])
    engine.bind({"x": array((1, 3), "float16"), "y": array((1, 2), "float32")}).enqueue(7)
    context.execute_async_v3.assert_called_once_with(7)
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")


class Refusing:
    """A library of which one call fails, as the real one does: by what it returns."""

    ILogger = SimpleNamespace
    DataType = SimpleNamespace(FLOAT=0, HALF=1)
    TensorIOMode = SimpleNamespace(INPUT=1, OUTPUT=2)
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    num_io_tensors = 2

    def __init__(self, refused):
        self.refused, self.messages = refused, []

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_mode(self, name):
        return 1 + (name == "y")

    def get_tensor_dtype(self, name):
        return name == "x"

    def create_execution_context(self, strategy):
        return None if self.refused == "create_execution_context" else self

    def set_input_shape(self, name, shape):
        return self.refused != "set_input_shape"

    def infer_shapes(self):
        if self.refused == "infer_shapes, by an error":
            raise RuntimeError("no shape fits")
        return ["x"] if self.refused == "infer_shapes" else []

    def get_tensor_shape(self, name):
        return [2 + (name == "x")] if self.refused == "get_tensor_shape" else [1, 2 + (name == "x")]

    def set_tensor_address(self, name, address):
        return self.refused != "set_tensor_address"

    def update_device_memory_size_for_shapes(self):
        return 1000

    def set_device_memory(self, address, size):
        assert (address, size) == (4096, 1000)
        if self.refused == "set_device_memory":
            self.messages.append("too small")

    def execute_async_v3(self, stream):
        return self.refused != "execute_async_v3"


@pytest.mark.parametrize(
    "refused",
    [
        "create_execution_context",
        "set_input_shape",
        "infer_shapes",
        "infer_shapes, by an error",
        "get_tensor_shape",
        "set_tensor_address",
        "set_device_memory",
        "execute_async_v3",
        None,
    ],
)
def test_what_the_library_refuses_is_an_error(refused):
    library = Refusing(refused)
    engine = TensorRTEngine(library, library, Path("g.engine"), record(), 4, Scratch(array), library.messages)
    arrays = {"x": array((1, 3), "float16"), "y": array((1, 2), "float32")}
    if refused is None:
        engine.bind(arrays).enqueue(7)
        return
    with pytest.raises((BundleError, DeviceError), match=r"g\.engine"):
        engine.bind(arrays).enqueue(7)


def test_more_objects_than_the_profile_has_are_refused():
    library = Refusing(None)
    engine = TensorRTEngine(library, library, Path("g.engine"), record(), 4, Scratch(array), [])
    with pytest.raises(BundleError, match="5 objects: expected 1 to 4"):
        engine.bind({"x": array((5, 3), "float16"), "y": array((5, 2), "float32")})
