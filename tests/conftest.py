import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes side by side: more threads of torch would wait for one another. It reads this as it is loaded.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).parent / "data"
LONG = (
    "runtime/test_closed_loop.py",
    # It exports the bundle that most others want, while nobody waits for it yet.
    "runtime/job/test_run.py",
    "fleet/test_batch.py",
    "serve/test_on_ray.py",
    "runtime/device/test_goldens.py",
    "training/clicks/test_clicks.py",
    "runtime/test_segmenter.py",
    "training/test_training.py",
    "studio/test_browser.py",
    "studio/test_tools.py",
    "export/graphs/test_half_precision.py",
    "benchmarks/gpu/test_proof.py",
    "test_packaging.py",
)
"""Files that take longest."""


def pytest_collection_modifyitems(items):
    """Long files first, in whatever order the others are: processes side by side then end together."""
    order = {DATA.parent / name: place for place, name in enumerate(LONG)}
    assert all(path.is_file() for path in order)
    items.sort(key=lambda item: order.get(item.path, len(LONG)))


def load_module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def write_bundle(folder, manifest, **changes):
    """A bundle of the files in a folder; its manifest is another's with changes."""
    from jointrt.export.build.bundle import write_manifest
    from jointrt.runtime.bundle import MANIFEST, Bundle, sha256_of

    (folder / MANIFEST).unlink(missing_ok=True)
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    write_manifest(folder, manifest.model_copy(update={"files": files, **changes}))
    return Bundle.open(folder)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """A function of a name and of what makes a bundle there; processes of one run make it once and share it."""
    from filelock import FileLock
    from jointrt.runtime.bundle import Bundle

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def make_once(name, make):
        folder = root / "bundles" / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                make(folder)
        return Bundle.open(folder)

    return make_once


@pytest.fixture(scope="session")
def golden():
    """The folder with outputs of the released code."""
    return DATA / "golden"


@pytest.fixture(scope="session")
def render():
    """Frames (T, H, W, 3) and true labels (T, H, W) of a clip that the released code was run on."""
    synth = load_module(DATA / "golden" / "synth.py")
    specs = synth.golden_specs()
    return lambda name: synth.render(specs[name])


@pytest.fixture(scope="session")
def paper_weights(tmp_path_factory):
    """A weights file with the seeded weights that the recorded outputs were made with."""
    import torch
    from jointrt.export.checkpoint.released import from_released
    from jointrt.export.checkpoint.weights import FORMAT
    from jointrt.model.config import ModelConfig
    from safetensors.torch import save_file

    released = load_module(DATA / "recipe" / "recipe.py").make_state_dict()
    tensors = {ours: torch.from_numpy(a.copy()) for n, a in released.items() if (ours := from_released(n)) is not None}
    path = tmp_path_factory.mktemp("weights") / "paper.safetensors"
    save_file(tensors, path, {"format": FORMAT, "config": json.dumps(ModelConfig.named("paper").to_dict())})
    return path


@pytest.fixture(scope="session")
def paper_net(paper_weights):
    from jointrt.export.checkpoint.weights import load_network

    return load_network(paper_weights)[0]


@pytest.fixture(scope="session")
def paper_bundle(paper_weights, made_once):
    """The exported bundle of the seeded weights; its parity gate was passed."""
    from jointrt.export.build.bundle import export_bundle

    return made_once("paper", lambda out: export_bundle(paper_weights, out, include_weights=False))


@pytest.fixture(scope="session")
def net():
    """Random weights with small crops, whose features neither fade nor grow and whose maps vary."""
    import dataclasses

    import torch
    from jointrt.model.config import ModelConfig
    from jointrt.model.network import JointNet

    torch.manual_seed(0)
    net = JointNet(dataclasses.replace(ModelConfig.named("lite"), crop_size=(64, 96)))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        # Normalisations take the statistics of random crops.
        net.train().backbone(torch.rand(4, 3, 64, 96) * 255)
        net.decoder.project.conv2.weight.mul_(40)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def one_thread():
    """For tensors so small that a second thread costs more than it gives."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_bundle(made_once):
    """The shipped weights with small crops and a small memory."""
    from jointrt.export.build.bundle import export_bundle
    from jointrt.runtime.bundle import WEIGHTS, find_bundle

    weights = find_bundle("lite") / WEIGHTS
    return made_once("tiny", lambda out: export_bundle(weights, out, crop=(64, 128), memory=3, interval=2))


@pytest.fixture(scope="session")
def fixed_graphs(tiny_bundle, made_once):
    """The same with graphs of fixed memory, fp32."""
    from jointrt.export.build.onnxruntime import build_onnx_bundle

    return made_once("fixed", lambda out: build_onnx_bundle(tiny_bundle, out, precision="fp32", memory=3))


@pytest.fixture(scope="session")
def half_graphs(fixed_graphs, tmp_path_factory):
    """The same typed for half precision."""
    from jointrt.export.build.tensorrt import write_typed

    folder, records = tmp_path_factory.mktemp("fixed") / "fp16", {}
    shutil.copytree(fixed_graphs.folder, folder)
    for name, record in fixed_graphs.manifest.graphs.items():
        path = folder / record.file
        records[name] = write_typed(path, record, "fp16", path).model_copy(update={"file": record.file})
    return write_bundle(folder, fixed_graphs.manifest, graphs=records, precision="fp16")


@pytest.fixture(scope="session")
def half_arithmetic():
    """A context in which torch computes fp16 on the CPU as a GPU does, and quickly."""
    return load_module(Path(__file__).parent / "half_arithmetic.py").HalfArithmetic


@pytest.fixture
def needs_openvino():
    """Looked for only: its own import would send a usage report."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not for this machine")


@pytest.fixture
def disc():
    """A frame with a bright disc, and the disc's mask: `disc(t)` moves it."""

    def make(t, size=(96, 160)):
        rows, columns = np.mgrid[: size[0], : size[1]]
        mask = (rows - 45) ** 2 + (columns - 60 - 2 * t) ** 2 < 18**2
        frame = np.random.default_rng(1).integers(0, 90, (*size, 3), dtype=np.uint8)
        frame[mask] = (230, 180, 40)
        return frame, mask.astype(np.uint8)

    return make
