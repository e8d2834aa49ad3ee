"""The host-driven network over engines, with ONNX Runtime and the host's memory where a GPU would be."""

import contextlib

import numpy as np
import onnxruntime as ort
import pytest
import torch
from jointrt.errors import BundleError, DeviceError
from jointrt.export.build.tensorrt import write_typed
from jointrt.export.checkpoint.network import bundle_network
from jointrt.export.graphs.few_shot_loop import write_loops
from jointrt.export.parity.engines import measure_engines
from jointrt.export.parity.graphs import failures, read_clip
from jointrt.export.parity.torch_device import TorchDevice
from jointrt.runtime.bundle import Bundle
from jointrt.runtime.clock import StageClock
from jointrt.runtime.device.cuda_driver import query_cuda_driver
from jointrt.runtime.device.engines.onnxruntime import OnnxDeviceEngine
from jointrt.runtime.device.engines.protocol import UNUSED, DeviceArray
from jointrt.runtime.device.engines.tensorrt import load_engines
from jointrt.runtime.host_driven.network import EngineNetwork, slot_of
from jointrt.runtime.host_driven.pycuda_memory import PycudaDevice
from jointrt.runtime.segmenter import Segmenter
from jointrt.runtime.settings import Settings
from jointrt.runtime.tracking.follower import HostFollower


class HostDevice:
    """The host as a device whose stream does nothing until it is waited for: what is enqueued too early or late, or
    taken from pinned memory that was written over, shows in the result."""

    stream = 5

    def __init__(self):
        self.queue = []
        self.waits = 0
        self.depth = 0

    @contextlib.contextmanager
    def current(self):
        self.depth += 1
        yield
        self.depth -= 1

    def zeros(self, shape, dtype):
        assert self.depth
        array = np.zeros(shape, dtype)
        return DeviceArray(array.ctypes.data, shape, dtype, array)

    def pinned(self, shape, dtype):
        assert self.depth
        return np.zeros(shape, dtype)

    def enqueue(self, call):
        assert self.depth == 1
        self.queue.append(call)

    def upload(self, destination, source):
        self.enqueue(lambda: np.copyto(self.view(destination), source))

    def download(self, destination, source):
        self.enqueue(lambda: np.copyto(destination, self.view(source)))

    def copy(self, destination, source):
        assert destination.dtype == source.dtype and np.prod(destination.shape) == np.prod(source.shape)
        self.enqueue(lambda: np.copyto(self.view(destination).ravel(), self.view(source).ravel()))

    def view(self, array):
        whole = array.owner.reshape(-1)
        first = (array.address - whole.ctypes.data) // whole.itemsize
        return whole[first : first + int(np.prod(array.shape))].reshape(array.shape)

    def wait(self):
        assert self.depth == 1
        self.waits += 1
        for call in self.queue:
            call()
        self.queue.clear()


class Queued:
    """An engine whose calls join a device's queue."""

    def __init__(self, engine, device):
        self.engine, self.device, self.ports, self.max_batch = engine, device, engine.ports, engine.max_batch

    def bind(self, arrays):
        bound = self.engine.bind(arrays)

        class Call:
            def enqueue(_, stream):
                assert stream == HostDevice.stream
                self.device.enqueue(lambda: bound.enqueue(stream))

        return Call()


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def engines_bundle(request, fixed_graphs, tmp_path_factory):
    """The graphs of fixed memory in a precision, the loop's among them."""
    folder = tmp_path_factory.mktemp(request.param)
    records = {}
    for name, record in fixed_graphs.manifest.graphs.items():
        typed = write_typed(fixed_graphs.path(record.file), record, request.param, folder / record.file)
        records[name] = typed.model_copy(update={"file": record.file})
    records |= write_loops(folder, records)
    return Bundle(folder, fixed_graphs.manifest.model_copy(update={"graphs": records, "precision": request.param}))


def segmenter(bundle, **options):
    settings = Settings.resolve(bundle.manifest.defaults, threads=1, **options)
    device, records = HostDevice(), bundle.manifest.graphs
    unused = UNUSED[settings.branches]
    engines = {name: engine for name, engine in on_host(bundle, device).items() if name not in unused}
    network = EngineNetwork(engines, records, device, settings, StageClock())
    return Segmenter(HostFollower(network, bundle.manifest.geometry, settings, network.clock)), device


def on_host(bundle, device):
    """All engines of a bundle."""
    return {
        name: Queued(OnnxDeviceEngine(bundle, name, record, ort.SessionOptions(), "CPUExecutionProvider"), device)
        for name, record in bundle.manifest.graphs.items()
    }


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@pytest.mark.parametrize("branches", ["both", "transduction", "induction"])
def test_a_clip_as_the_growing_memory_on_the_cpu_has_it(tiny_bundle, engines_bundle, branches):
    """Real frames, two objects; three slots fill and are replaced."""
    frames, labels = read_clip(8)
    alone = Segmenter.load(tiny_bundle.folder, branches=branches, threads=1)
    tested, device = segmenter(engines_bundle, branches=branches)
    fp32 = engines_bundle.manifest.precision == "fp32"
    for t, frame in enumerate(frames):
        alone.align(tested)
        waits = device.waits
        found, expected = (s.step(frame, labels if t == 0 else None) for s in (tested, alone))
        assert device.waits - waits == (2 if t else 0), "an object's logits are all that a frame waits for"
        for i in (1, 2):
            assert iou(found == i, expected == i) >= (0.995 if fp32 else 0.97), (t, i)
    assert not device.queue


@pytest.mark.parametrize("kind", ["queued", "torch"])
def test_the_gate_of_a_build(fixed_graphs, engines_bundle, kind):
    """Every graph and the closed loop, over two kinds of memory; an engine with other weights is found."""
    device = HostDevice() if kind == "queued" else TorchDevice(torch.device("cpu"))
    manifest, net = engines_bundle.manifest, bundle_network(fixed_graphs)
    if kind == "queued":
        engines = on_host(engines_bundle, device)
    else:
        engines = {n: queued.engine for n, queued in on_host(engines_bundle, device).items()}
    parity = measure_engines(engines, manifest.graphs, device, net, manifest.defaults)
    assert failures(parity, manifest.precision) == []
    assert {g.graph for g in parity.graphs} == set(manifest.graphs)
    if kind == "torch":
        torch.nn.init.zeros_(net.label_encoder.head_W.weight)
        worse = measure_engines(engines, manifest.graphs, device, net, manifest.defaults)
        assert failures(worse, manifest.precision)[0].startswith("label_encoder: relative L2 error")


def test_it_goes_on_from_its_state(engines_bundle, disc):
    first, _ = segmenter(engines_bundle)
    for t in range(5):
        frame, mask = disc(t)
        first.step(frame, mask if t == 0 else None)
    second, _ = segmenter(engines_bundle)
    second.load_state_dict(first.state_dict())
    for t in range(5, 9):
        np.testing.assert_array_equal(second.step(disc(t)[0]), first.step(disc(t)[0]))


def test_a_slot_is_a_part_of_its_bank():
    array = np.arange(24, dtype=np.float16).reshape(1, 4, 3, 2)
    bank = DeviceArray(array.ctypes.data, array.shape, "float16", array)
    np.testing.assert_array_equal(HostDevice().view(slot_of(bank, 2)), array[:, 2])


@pytest.mark.skipif(query_cuda_driver().problem is None, reason="this machine has a GPU")
def test_without_a_gpu_pycuda_is_refused_in_one_line(tiny_bundle):
    with pytest.raises(DeviceError, match=r"driver.*--device cpu"):
        PycudaDevice("cuda")
    with pytest.raises(BundleError, match="holds onnx graphs"):
        settings = Settings.resolve(tiny_bundle.manifest.defaults)
        load_engines(tiny_bundle, settings, device="cuda", allocate=HostDevice().zeros)
