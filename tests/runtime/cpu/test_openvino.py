"""OpenVINO on the CPU, beside ONNX Runtime: what is chosen, what it computes, what is refused."""

import ctypes
import dataclasses
import gc
import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from jointrt import Segmenter
from jointrt.errors import DeviceError, SettingsError
from jointrt.runtime.backends import choose
from jointrt.runtime.cpu.loading import load_engine
from jointrt.runtime.cpu.openvino_engine import computes_bf16

if importlib.util.find_spec("openvino") is None:
    pytest.skip("OpenVINO is not for this machine", allow_module_level=True)
bf16 = pytest.mark.skipif(not computes_bf16(), reason="this processor has no bf16 products")


def narrow(bundle):
    """The same bundle, as if its graphs were in 8 bits."""
    return dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"precision": "int8"}))


def test_auto_takes_it_for_8_bits_only_and_never_bf16(tiny_bundle):
    assert str(choose(tiny_bundle, "auto")) == "onnxruntime"
    assert str(choose(narrow(tiny_bundle), "auto")) == "openvino"
    for asked in (("openvino", "bf16"), ("openvino:bf16",)):
        assert str(choose(tiny_bundle, *asked)) == "openvino:bf16"


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"backend": "onnxruntime", "precision": "bf16"}, SettingsError, "fp32"),
        ({"backend": "openvino:fp16"}, SettingsError, "openvino:bf16"),
        ({"backend": "openvino", "device": "cuda"}, DeviceError, "CPU only"),
        ({"backend": "openvinos"}, SettingsError, "openvino"),
    ],
)
def test_what_it_cannot_do_is_refused(tiny_bundle, options, error, said):
    with pytest.raises(error, match=said):
        Segmenter.load(tiny_bundle.folder, **options)


def test_graphs_of_fixed_memory_are_refused(fixed_graphs):
    with pytest.raises(DeviceError, match="onnxruntime-cuda graphs; expected ONNX"):
        Segmenter.load(fixed_graphs.folder, backend="openvino")


def test_without_it_8_bits_run_in_onnx_runtime_and_asking_for_it_says_what_to_install(tiny_bundle):
    code = f"""
import sys
sys.modules["openvino"] = None  # as if it were not there
from jointrt import Segmenter
from jointrt.errors import DependencyError
assert Segmenter.load("lite-int8").runs_on == "ONNX Runtime on the CPU"
try:
    Segmenter.load({str(tiny_bundle.folder)!r}, backend="openvino")
except DependencyError as error:
    assert "jointrt[openvino]" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_report_is_sent_and_nothing_left_at_home(tmp_path):
    """OpenVINO's would be sent by a thread; both libraries keep an identifier."""
    code = """
import sys, threading
from jointrt import Segmenter
assert Segmenter.load("lite-int8", backend="openvino").runs_on == "OpenVINO on the CPU"
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
assert threading.active_count() == 1
"""
    home = os.environ | {"HOME": str(tmp_path), "CI": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=home)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def follow(bundle, disc, **options):
    segmenter = Segmenter.load(bundle, interval=2, memory=3, **options)
    maps = []
    for t in range(12):
        frame, mask = disc(t)
        segmenter.step(frame, mask if t == 0 else None)
        maps.append(segmenter.probabilities()[1])
    return np.array(maps), segmenter


def test_fp32_gives_the_probabilities_of_onnx_runtime(tiny_bundle, disc):
    expected, _ = follow(tiny_bundle.folder, disc)
    found, _ = follow(tiny_bundle.folder, disc, backend="openvino")
    assert expected[-1].max() > 0.1 and np.abs(found - expected).max() < 1e-3


def test_8_bits_follow_the_disc_as_in_onnx_runtime(disc):
    expected, _ = follow("lite-int8", disc, backend="onnxruntime")
    found, segmenter = follow("lite-int8", disc)
    assert segmenter.runs_on.startswith("OpenVINO")
    a, b = found > 0.5, expected > 0.5
    assert (a & b).sum() > 0.95 * (a | b).sum()


@bf16
def test_bf16_leaves_the_memory_near_what_its_frames_give(tiny_bundle, disc):
    """Eq. 2 in fp64 over the stored keys and tokens, after every slot was replaced."""
    _, segmenter = follow(tiny_bundle.folder, disc, backend="openvino:bf16")
    frames = segmenter.tracking.trackers[1].target.memory.frames
    keys, tokens = (
        np.concatenate([f.look.lent[name].array[0] for f in frames]).astype(np.float64) for name in ("key", "z")
    )
    tau = 1 / 30
    affinities = np.exp((keys @ keys.T - 1) / tau)
    exact = affinities @ tokens / affinities.sum(1, keepdims=True)
    kept = np.concatenate([f.C.array[0] / f.D.array[0] for f in frames])
    error = np.linalg.norm(kept - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 1e-2


class SignalStack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


def signal_stack():
    """Where the kernel writes this thread's next signal."""
    found = SignalStack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.start, found.size


@pytest.mark.skipif(sys.platform != "linux", reason="stack_t as on Linux")
def test_engines_that_come_and_go_leave_signals_their_stack(tiny_bundle):
    """OpenVINO's own leaves a thread with unmapped memory, over which the next Ctrl-C is written."""
    before = signal_stack()
    choice = choose(tiny_bundle, "openvino")
    engines = [load_engine(tiny_bundle, choice, name, threads=1) for name in ("label_encoder", "memory_encode")]
    assert signal_stack() == before
    while engines:
        engines.pop(0)
    gc.collect()
    assert signal_stack() == before
