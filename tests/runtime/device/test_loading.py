"""The device's orchestrator from a bundle, what is refused, and the whole way from the command line, on the CPU."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from jointrt import BatchSegmenter
from jointrt.errors import BundleError, DependencyError, DeviceError, OutputError, SettingsError
from jointrt.export.build.onnxruntime import build_onnx_bundle
from jointrt.export.checkpoint.network import bundle_network
from jointrt.export.parity.graphs import failures
from jointrt.export.parity.verify import verify_bundle
from jointrt.runtime import doctor
from jointrt.runtime.backends import Name, choose
from jointrt.runtime.bundle import WEIGHTS, Bundle
from jointrt.runtime.device import readiness
from jointrt.runtime.device.cuda_driver import CudaDevice, CudaDriver, query_cuda_driver
from jointrt.runtime.device.follower import DeviceFollower
from jointrt.runtime.device.speeds import keep_speeds, known_speeds
from jointrt.runtime.host_driven import pycuda_memory as pycuda_device
from jointrt.runtime.segmenter import Segmenter
from PIL import Image

NO_GPU = pytest.mark.skipif(query_cuda_driver().problem is None, reason="this machine has a GPU")


def shared_area(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def test_onnx_graphs_follow_a_video_as_the_growing_memory_does(tiny_bundle, half_graphs, disc):
    """The memory fills and is replaced; a second object comes later."""
    alone, device = Segmenter.load(tiny_bundle.folder), Segmenter.load(half_graphs.folder, backend="onnxruntime")
    assert isinstance(device.tracking, DeviceFollower)
    assert device.runs_on == "ONNX Runtime on the CPU: as asked for"
    assert not device.tracking.network.capturable
    for t in range(10):
        frame, mask = disc(t)
        if t == 2:
            mask[70:90, 100:140] = 2
        given = mask if t in (0, 2) else None
        expected, found = alone.step(frame, given), device.step(frame, given)
        assert shared_area(found == 1, expected == 1) > 0.98, t
    assert device.object_ids == (1, 2)


@pytest.mark.parametrize(("precision", "floor"), [("fp32", 0.995), ("fp16", 0.98)])
def test_the_network_in_torch_follows_a_video_as_the_onnx_graphs_do(tiny_bundle, disc, precision, floor):
    segmenter = Segmenter.load(tiny_bundle.folder, backend="torch", precision=precision)
    alone = Segmenter.load(tiny_bundle.folder)
    for t in range(8):
        frame, mask = disc(t)
        given = mask if t == 0 else None
        assert shared_area(segmenter.step(frame, given) > 0, alone.step(frame, given) > 0) > floor, t


def test_the_fastest_backend_that_suits_is_chosen(tiny_bundle, half_graphs):
    assert choose(half_graphs, device="cuda").name == "torch"
    asked = choose(half_graphs, "onnxruntime", device="cuda")
    assert (asked.name, asked.why, asked.precision) == ("onnxruntime", "as asked for", "fp16")
    chosen = choose(tiny_bundle, device="cuda:1")
    assert (chosen.name, chosen.device, chosen.precision) == ("torch", "cuda:1", "fp16")
    assert "no TensorRT engines" in chosen.why
    assert choose(tiny_bundle, "torch").precision == "fp32"
    with pytest.raises(DeviceError, match="build BUNDLE --backend onnxruntime"):
        choose(tiny_bundle, "onnxruntime", device="cuda")
    with pytest.raises(DeviceError, match="needs a GPU"):
        choose(tiny_bundle, "tensorrt")


def test_what_was_measured_on_a_gpu_decides(tiny_bundle, monkeypatch, tmp_path):
    """Of the backends that suit; where the usual one was not measured, nothing is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    print_of, gpu = tiny_bundle.fingerprint, "NVIDIA H100 80GB HBM3"
    assert known_speeds(print_of, gpu) == {}
    keep_speeds(print_of, gpu, {Name.COMPILED: 2.0})
    assert choose(tiny_bundle, device="cuda", speeds=known_speeds(print_of, gpu)).name == "torch"
    keep_speeds(print_of, gpu, {Name.TORCH: 3.5, Name.TENSORRT: 1.0})
    chosen = choose(tiny_bundle, device="cuda", speeds=known_speeds(print_of, gpu))
    assert (chosen.name, chosen.precision) == ("torch:compiled", "fp16")
    assert chosen.why.startswith("2.00 ms where PyTorch takes 3.50, as measured here")
    assert choose(tiny_bundle, "torch", device="cuda", speeds=known_speeds(print_of, gpu)).name == "torch"
    assert known_speeds(print_of, "another") == {}
    for file in tmp_path.rglob("*.json"):
        file.write_text("{")
    assert known_speeds(print_of, gpu) == {}


@pytest.mark.parametrize(("backend", "precision"), [("torch", "fp32"), ("torch:fp16", "fp16"), ("openvino", "")])
def test_a_bundle_is_verified_by_any_backend(tiny_bundle, needs_openvino, backend, precision):
    parity, judged = verify_bundle(tiny_bundle, bundle_network(tiny_bundle), backend)
    assert judged == precision
    assert not failures(parity, judged)
    assert parity.closed_loop.frames == 8
    assert {"backbone", "memory_read", "decoder"} <= {graph.graph for graph in parity.graphs}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"backend": "tvm"}, SettingsError, "auto, tensorrt, torch, torch:compiled, aoti, onnxruntime, openvino"),
        ({"device": "tpu"}, DeviceError, "expected 'cpu', 'cuda'"),
        ({"backend": "torch", "precision": "int4"}, SettingsError, "fp32 or fp16"),
        ({"backend": "torch:fp16", "precision": "fp32"}, SettingsError, "one precision"),
        ({"device": "cuda:"}, DeviceError, "expected 'cpu', 'cuda'"),
        pytest.param({"device": "cuda"}, DeviceError, "driver", marks=NO_GPU),
        pytest.param({"device": "cuda", "backend": "onnxruntime"}, DeviceError, "driver", marks=NO_GPU),
    ],
)
def test_what_cannot_be_used_is_refused(tiny_bundle, changes, error, message):
    with pytest.raises(error, match=message):
        Segmenter.load(tiny_bundle.folder, **changes)


def test_videos_of_a_bundle_in_one_batch(tiny_bundle, disc):
    segmenter = BatchSegmenter.load(tiny_bundle.folder, videos=2, device="cpu", backend="torch")
    (frame, mask), (later, _) = disc(0), disc(3)
    first, second = segmenter.step([frame, later], [mask, mask])
    assert np.array_equal(first, mask) and np.array_equal(second, mask)
    with pytest.raises(SettingsError, match="one video at a time"):
        BatchSegmenter.load(tiny_bundle.folder, videos=2, device="cpu")
    with pytest.raises(SettingsError, match="videos is 0"):
        BatchSegmenter.load(tiny_bundle.folder, videos=0, device="cpu", backend="torch")


def test_a_build_that_cannot_be_made_leaves_nothing(tiny_bundle, half_graphs, tmp_path):
    for bundle, out, changes, error in (
        (half_graphs, tmp_path / "a", {}, BundleError),
        (tiny_bundle, tiny_bundle.folder, {}, OutputError),
        (tiny_bundle, tmp_path / "a", {"precision": "int4"}, SettingsError),
        (tiny_bundle, tmp_path / "a", {"memory": 0}, SettingsError),
    ):
        with pytest.raises(error):
            build_onnx_bundle(bundle, out, **{"precision": "fp16", "memory": 2, **changes})
    assert not list(tmp_path.iterdir())


@pytest.fixture
def clip(tmp_path, disc):
    frames = tmp_path / "frames"
    frames.mkdir()
    for t in range(5):
        Image.fromarray(disc(t)[0]).save(frames / f"{t:05d}.png")
    Image.fromarray(disc(0)[1]).save(tmp_path / "mask.png")
    return frames, tmp_path / "mask.png"


def command(monkeypatch, *arguments):
    from jointrt import cli

    monkeypatch.setattr("sys.argv", ["jointrt", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return end.code or 0
    return 0


def test_a_run_by_the_device_s_orchestrator(tiny_bundle, clip, tmp_path, monkeypatch, capsys):
    frames, mask = clip
    common = ("run", frames, "--mask", mask, "--bundle", tiny_bundle.folder, "--no-overlay")
    assert command(monkeypatch, *common, "-o", tmp_path / "a", "--backend", "torch") == 0
    assert "runs with PyTorch on the CPU" in capsys.readouterr().err
    assert command(monkeypatch, *common, "-o", tmp_path / "b") == 0
    for t in range(5):
        maps = [np.array(Image.open(tmp_path / out / "masks" / f"{t:05d}.png")) for out in "ab"]
        assert shared_area(*(m > 0 for m in maps)) > 0.99


def test_a_bundle_is_timed_by_the_device_s_orchestrator(tiny_bundle, tmp_path, monkeypatch, capsys):
    common = ("--bundle", tiny_bundle.folder, "--backend", "torch", "--periods", 3, "--memory", 2)
    assert command(monkeypatch, "bench", *common, "--json", tmp_path / "b.json") == 0
    assert "frames/s where the host works ahead" in " ".join(capsys.readouterr().out.split())
    (case,) = json.loads((tmp_path / "b.json").read_text())["cases"]
    assert case["settings"]["backend"] == "torch"
    assert len(case["frames"]) == 6 and min(case["frames"]) > 0 and case["frames_per_second_queued"] > 0


def test_a_machine_without_a_gpu_says_so_of_every_backend():
    backends = [f for f in doctor.examine().findings if f.part == "backends"]
    found = {f.name: f for f in backends if f.name.startswith("cuda")}
    assert set(found) == {f"cuda, {name}" for name in ("tensorrt", "torch", "torch:compiled", "aoti", "onnxruntime")}
    if query_cuda_driver().problem is not None:
        assert {f.found for f in found.values()} == {"no NVIDIA driver"}


def test_each_backend_names_what_it_lacks(monkeypatch):
    monkeypatch.setattr(readiness.importlib.util, "find_spec", lambda name: None)
    assert "torch and safetensors" in readiness.backend_problem(Name.TORCH)
    assert "neither tensorrt nor tensorrt-rtx" in readiness.backend_problem(Name.TENSORRT)


ADA = CudaDriver((12, 4), (CudaDevice("Ada", (8, 9), 1 << 34),), None)
TORCH_FOR_CPUS = SimpleNamespace(
    __version__="2.13.0+cpu", version=SimpleNamespace(cuda=None), cuda=SimpleNamespace(is_available=lambda: False)
)
TORCH_TOO_NEW = SimpleNamespace(
    __version__="2.13.0", version=SimpleNamespace(cuda="13.0"), cuda=SimpleNamespace(is_available=lambda: False)
)
TORCH_FOR_GPUS = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU, this torch, and pycuda or not."""

    def install(torch, pycuda):
        found = readiness.importlib.util.find_spec
        there = {"pycuda": pycuda or None, "tensorrt_rtx": True}
        monkeypatch.setattr(readiness, "query_cuda_driver", lambda: ADA)
        monkeypatch.setattr(
            readiness.importlib.util, "find_spec", lambda name: there[name] if name in there else found(name)
        )
        monkeypatch.setitem(sys.modules, "torch", torch)

    return install


@pytest.fixture
def tensorrt_bundle(tiny_bundle):
    return Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update={"backend": "tensorrt-rtx"}))


@pytest.mark.parametrize(
    ("torch", "pycuda", "reason"),
    [
        (TORCH_FOR_GPUS, True, None),
        (None, True, "torch is not installed"),
        (None, False, "torch is not installed"),
        (TORCH_FOR_CPUS, True, "torch 2.13.0+cpu is built without CUDA, the driver runs CUDA up to 12.4"),
        (TORCH_TOO_NEW, True, "torch 2.13.0 is built for CUDA 13.0, the driver runs CUDA up to 12.4"),
    ],
)
@pytest.mark.parametrize("backend", ["auto", "tensorrt"])
def test_tensorrt_is_driven_from_the_host_where_torch_cannot_use_the_gpu(
    machine, tensorrt_bundle, monkeypatch, backend, torch, pycuda, reason
):
    machine(torch, pycuda)
    choice = readiness.choose_ready(tensorrt_bundle, backend, None, "cuda")
    assert choice.name == "tensorrt"
    assert readiness.host_driven(choice.name, "cuda") == reason
    if reason is not None:
        monkeypatch.setattr(pycuda_device, "pycuda_network", lambda *arguments: None)
        segmenter = Segmenter.load(tensorrt_bundle, device="cuda", backend=backend)
        assert segmenter.runs_on == f"TensorRT driven from the host on Ada: {reason}"


@pytest.mark.parametrize(
    ("torch", "pycuda", "backend", "error", "message"),
    [
        (TORCH_FOR_CPUS, False, "tensorrt", DeviceError, r"built without CUDA.*jointrt\[pycuda\]"),
        (TORCH_TOO_NEW, True, "torch", DeviceError, "for CUDA 13.0, the driver runs CUDA up to 12.4"),
        (None, True, "torch", DependencyError, "torch is not installed"),
    ],
)
def test_without_a_fit_torch_what_needs_it_is_refused(machine, tensorrt_bundle, torch, pycuda, backend, error, message):
    machine(torch, pycuda)
    assert WEIGHTS in tensorrt_bundle.manifest.files
    with pytest.raises(error, match=message):
        readiness.choose_ready(tensorrt_bundle, backend, None, "cuda")


@pytest.mark.parametrize(
    ("torch", "pycuda", "problem"),
    [
        (TORCH_FOR_GPUS, False, None),
        (TORCH_FOR_CPUS, True, None),
        (TORCH_FOR_CPUS, False, "built without CUDA"),
        (None, True, None),
        (None, False, "neither torch nor pycuda"),
    ],
)
def test_what_tensorrt_lacks_is_named(machine, torch, pycuda, problem):
    machine(torch, pycuda)
    found = readiness.backend_problem(Name.TENSORRT)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize("torch", [None, TORCH_FOR_CPUS])
def test_videos_in_one_batch_need_torch(machine, tensorrt_bundle, torch):
    machine(torch, True)
    with pytest.raises((DependencyError, DeviceError), match="torch"):
        BatchSegmenter.load(tensorrt_bundle, videos=2, device="cuda")


@NO_GPU
@pytest.mark.parametrize("option", ["auto", "torch", "onnxruntime", "tensorrt"])
def test_without_a_driver_nothing_is_written(tiny_bundle, clip, tmp_path, monkeypatch, capsys, option):
    frames, mask = clip
    out = tmp_path / "out"
    common = ("--bundle", tiny_bundle.folder, "--device", "cuda", "--backend", option, "-o", out)
    assert command(monkeypatch, "run", frames, "--mask", mask, *common) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no NVIDIA driver" in error
    assert not out.exists()
