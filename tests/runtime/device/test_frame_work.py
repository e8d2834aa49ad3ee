"""What lies between the engines, compiled as for a GPU; here by Inductor for the CPU."""

import shutil

import numpy as np
import pytest
import torch
from jointrt.runtime.device.frame_work import compiled, options
from jointrt.runtime.device.geometry import cut_images, ratio, search_windows, update_state
from jointrt.runtime.manifest import Geometry
from jointrt.runtime.settings import Settings
from jointrt.runtime.tracking.target_state import TargetState
from jointrt.runtime.tracking.tracker import ObjectTracker
from torch._inductor import config
from torch._inductor.codegen.triton import TritonKernel

pytestmark = pytest.mark.usefixtures("one_thread")
# Triton builds what launches its kernels.
COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "gcc", "clang"))), reason="Inductor and Triton need a compiler: no g++"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZE, CROP, STATES = (60, 107), (64, 96), 1000


def maps():
    """(STATES, H, W): blobs everywhere, over the frame's edges, and some too faint to be seen."""
    generator = np.random.default_rng(4)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.float32)
    cy, cx = (generator.uniform(-0.1, 1.1, STATES)[:, None, None] * n for n in SIZE)
    sy, sx = (generator.uniform(1, 30, STATES)[:, None, None] for _ in range(2))
    found = np.exp(-(((y - cy) / sy) ** 2) - ((x - cx) / sx) ** 2)
    return (found * generator.choice([1, 0.9, 1e-4], STATES)[:, None, None]).astype(np.float32)


@pytest.mark.parametrize("size", [3, 30, 64, 96, 480, 832, 1000])
def test_ratios_are_those_of_fp32_with_the_reciprocal_too(size):
    """As torch and Inductor divide by a constant on a GPU, which one cannot see on a CPU."""
    lengths = np.arange(2**14)
    expected = lengths.astype(np.float32) / np.float32(size)
    np.testing.assert_array_equal(ratio(torch.from_numpy(lengths).to(DEVICE), size).cpu(), expected)
    np.testing.assert_array_equal((lengths * (1 / size)).astype(np.float32), expected)
    single = lengths.astype(np.float32) * np.float32(1 / size)
    assert size == 64 or (single != expected).any()


def test_nothing_is_fused_into_one_rounding():
    """What Inductor tells Triton of every kernel; without the settings it asks for fusion."""
    assert TritonKernel.triton_meta_common()["enable_fp_fusion"]
    with config.patch(options()):
        assert not TritonKernel.triton_meta_common()["enable_fp_fusion"]
        assert config.eager_numerics.division_rounding


@COMPILER
def test_compiled_windows_are_those_of_the_host_to_the_bit():
    """1,000 states at once, and the crops as the same functions cut them without a compiler."""
    generator = np.random.default_rng(7)
    pos = generator.uniform(0, 1, (STATES, 2)).astype(np.float32) * np.float32(SIZE)
    scale = generator.uniform(0.3, 2, (STATES, 1)).astype(np.float32)
    base = generator.uniform(5, 60, (STATES, 2)).astype(np.float32)
    frames = torch.from_numpy(generator.integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)).to(DEVICE)
    arrays = [torch.from_numpy(a).to(DEVICE) for a in (maps(), pos, scale, base)]

    def front(probability, pos, scale, base, frames):
        pos, scale = update_state(probability, pos, scale, base)
        windows = search_windows(pos, scale, SIZE, CROP, 16, 3)
        first = type(windows)(*(t[:8] for t in windows))
        video = torch.zeros(8, dtype=torch.long, device=pos.device)
        return *windows, scale, cut_images(frames, video, first, CROP)

    *windows, _, crops = compiled(front)(*arrays, frames)
    *_, expected = front(*arrays, frames)
    np.testing.assert_allclose(crops.cpu(), expected.cpu(), atol=1e-3)
    found = torch.cat(windows, 1).cpu().numpy()

    geometry = Geometry(crop_size=CROP, stride=16, filter_size=3, search_factor=5.0)
    settings = Settings(memory=3, interval=2, branches="both", threads=1, score_resize="given")
    tracker = ObjectTracker(None, geometry, settings)
    for i, probability in enumerate(arrays[0].cpu().numpy()):
        tracker.state = TargetState(pos[i].copy(), scale[i, 0], base[i].copy())
        tracker.state.update(probability, (0, 0))
        w = tracker.search_window(SIZE)
        assert found[i].tolist() == [w.top, w.left, w.bottom, w.right, w.stride, *w.offset], i
