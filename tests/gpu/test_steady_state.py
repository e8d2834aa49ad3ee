"""What only a GPU can show: nothing waits for the host, nothing is captured or allocated after the first frames.

On CPU tensors the same lines run, where nothing is captured, so that a GPU's minutes are not lost to a slip in them.
"""

import contextlib
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from jointrt.export.parity.reference import reference_defaults
from jointrt.export.parity.torch_network import torch_network
from jointrt.model.config import ModelConfig
from jointrt.model.network import JointNet
from jointrt.runtime.device.follower import BatchSegmenter, DeviceFollower
from jointrt.runtime.segmenter import Segmenter
from jointrt.runtime.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")
FRAMES = {"cpu": 4, "cuda": 3000}
SIZE = (240, 320)


def network(device, precision):
    torch.manual_seed(0)
    net = JointNet(dataclasses.replace(ModelConfig.named("lite"), crop_size=(128, 192))).eval()
    return torch_network(net, Settings.resolve(reference_defaults(memory=4, interval=2)), precision, device)


def captured_by(segmenter):
    return segmenter.tracking.network.lane.captured


def noise():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def squares():
    mask = np.zeros(SIZE, np.uint8)
    mask[60:120, 80:160] = 1
    mask[130:190, 200:280] = 2
    return mask


@pytest.fixture(
    params=[("cpu", "fp32"), *(pytest.param(("cuda", p), marks=GPU) for p in ("fp32", "fp16"))], ids="-".join
)
def segmenter(request):
    device, precision = request.param
    segmenter = Segmenter(DeviceFollower(network(device, precision)))
    segmenter.step(noise(), squares())
    for _ in range(12 if device == "cuda" else 1):
        segmenter.step(noise())
    return segmenter


@contextlib.contextmanager
def refused_waiting(device):
    """What waits for the GPU raises in the block."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def free_memory(device):
    """The driver's own figure."""
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else 0


def test_the_steady_state_never_waits_for_the_host(segmenter):
    frame, lane = noise(), segmenter.tracking.network.lane
    lane.wait()
    with refused_waiting(lane.device):
        pending = [segmenter.submit(frame) for _ in range(20 if lane.stream else 2)]
    assert all(p.result().shape == SIZE for p in pending)


def test_graphs_and_memory_stay_as_they_are(segmenter):
    lane, frame = segmenter.tracking.network.lane, noise()
    frames = FRAMES[lane.device.type]
    for _ in segmenter.stream(frame for _ in range(min(100, frames))):
        pass
    lane.wait()
    captured, free = lane.captured, free_memory(lane.device)
    # The frame, the update, and nothing for the first filter, which was learned once.
    assert captured == (2 if lane.stream else 0)
    for labels in segmenter.stream(frame for _ in range(frames)):
        assert labels.shape == SIZE
    assert lane.captured == captured
    assert free_memory(lane.device) == free


@pytest.fixture(
    params=[
        pytest.param((device, overlapped), id=device + "-overlapped" * overlapped, marks=[GPU] * (device == "cuda"))
        for device in ("cpu", "cuda")
        for overlapped in (False, True)
    ]
)
def pair(net, request):
    """One segmenter that replays, and one that enqueues the same work call by call."""
    device, overlapped = request.param
    settings = Settings.resolve(reference_defaults(memory=4, interval=2))
    networks = [torch_network(net, settings, "fp32", device) for _ in range(2)]
    networks[0].overlapped, networks[1].capturable = overlapped, False
    return tuple(Segmenter(DeviceFollower(one)) for one in networks)


def differ(replayed, plain, frames, run):
    """How far the merged maps are apart at each frame, begun from one state, in units of what varies in them."""
    for t in range(frames):
        mask = squares() if t == 0 else None
        run(t, lambda mask=mask: replayed.step(noise(), mask))
        plain.step(noise(), mask)
        mine, expected = (s.tracking.batch.tensors["probability"].cpu() for s in (replayed, plain))
        yield float((mine - expected).abs().mean() / expected.std())
        for name, tensor in plain.tracking.batch.tensors.items():
            replayed.tracking.batch.tensors[name].copy_(tensor)
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()


def test_a_replayed_graph_gives_what_plain_calls_give(pair):
    on_gpu = pair[0].tracking.network.lane.stream is not None
    assert max(differ(*pair, 20 if on_gpu else 5, lambda t, step: step())) < 1e-2
    assert [captured_by(s) for s in pair] == [2 * on_gpu, 0]


def test_frames_may_come_from_another_thread(pair):
    """Before a graph was captured, and after: a first call prepares what libraries keep by thread."""
    with ThreadPoolExecutor(1) as other:

        def run(t, step):
            return step() if t in (0, 1, 8, 9) else other.submit(step).result()

        on_gpu = pair[0].tracking.network.lane.stream is not None
        assert max(differ(*pair, 16 if on_gpu else 4, run)) < 1e-2
    assert [captured_by(s) for s in pair] == [2 * on_gpu, 0]


@pytest.mark.parametrize(
    ("device", "precision", "frames"), [("cpu", "fp32", 1), pytest.param("cuda", "fp16", 20, marks=GPU)]
)
def test_graphs_of_a_batch_are_one_per_frame_and_one_per_pace(device, precision, frames):
    """And one for the first filters, when a second group of as many objects comes."""
    together = BatchSegmenter(network(device, precision), 2)
    frame, mask = noise(), squares()
    together.step([frame, None], [mask, None])
    together.step([frame, frame], [None, mask])
    for _ in range(min(frames, 12)):
        together.step([frame, frame])
    captured = together.network.lane.captured
    for _ in range(frames):
        together.step([frame, frame])
    assert together.network.lane.captured == captured == (4 if device == "cuda" else 0)
