"""Import, segmentation and the command line where torch, onnx and safetensors are not installed."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

BLOCKED = ("torch", "onnx", "onnxscript", "safetensors", "matplotlib", "lightning_fabric")
BLOCKER = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", BLOCKER + code], capture_output=True, text=True, timeout=300)


@pytest.fixture
def clip(tmp_path, disc):
    folder = tmp_path / "frames"
    folder.mkdir()
    for t in range(4):
        Image.fromarray(disc(t)[0]).save(folder / f"{t:05d}.png")
    Image.fromarray(disc(0)[1]).save(tmp_path / "mask.png")
    return folder, tmp_path / "mask.png"


def test_the_blocker_blocks():
    assert "ModuleNotFoundError" in run("import torch").stderr


def test_the_interface(tiny_bundle):
    code = f"""
import numpy as np
from jointrt import Segmenter
segmenter = Segmenter.load({str(tiny_bundle.folder)!r})
mask = np.zeros((96, 160), np.uint8); mask[30:60, 40:90] = 1
frame = np.zeros((96, 160, 3), np.uint8)
for t in range(4):
    segmenter.step(frame, mask if t == 0 else None)
assert not set({BLOCKED!r}) & set(sys.modules)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_a_worker_of_a_batch(tiny_bundle, tmp_path):
    pytest.importorskip("fsspec")
    code = f"""
from pathlib import Path
from jointrt.fleet.worker import Plan, Worker
from jointrt.runtime.job.run import Request
nowhere = Path()
request = Request(source=nowhere, mask=nowhere, out=nowhere, bundle={str(tiny_bundle.folder)!r}, threads=1)
assert Worker(Plan(request, {str(tmp_path)!r}, "png", False)).ready()
assert not set({BLOCKED!r}) & set(sys.modules)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["--help", "run", "bench"])
def test_the_commands(tiny_bundle, clip, tmp_path, command):
    frames, mask = clip
    arguments = {
        "--help": ["--help"],
        "run": ["run", str(frames), "--mask", str(mask), "-o", str(tmp_path / "out"), "--bundle"],
        "bench": ["bench", "--memory", "2", "--json", str(tmp_path / "bench.json"), "--bundle"],
    }[command]
    if command != "--help":
        arguments.append(str(tiny_bundle.folder))
    done = run(f"import sys; sys.argv = ['jointrt', *{arguments!r}]\nfrom jointrt.cli import main\nmain()")
    assert done.returncode == 0, done.stderr
    if command == "run":
        masks = sorted((tmp_path / "out" / "masks").iterdir())
        assert [path.name for path in masks] == [f"{t:05d}.png" for t in range(4)]
        assert set(np.unique(np.array(Image.open(masks[0])))) == {0, 1}


def test_tensorrt_through_pycuda_is_loaded_without_torch():
    done = run(f"import jointrt.runtime.host_driven.pycuda_memory\nassert not set({BLOCKED!r}) & set(sys.modules)")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["export", "--weights", "w", "--out", "o"], ["verify", "lite"]])
def test_a_command_that_needs_torch_names_the_extra(arguments):
    done = run(f"import sys; sys.argv = ['jointrt', *{arguments!r}]\nfrom jointrt.cli import main\nmain()")
    assert done.returncode == 2
    assert "jointrt[export]" in done.stderr
    assert "Traceback" not in done.stderr
