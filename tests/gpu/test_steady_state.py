"""What only a GPU can show: nothing waits for the host, nothing is captured or allocated after the first frames."""

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

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")
FRAMES = 3000
SIZE = (240, 320)


def network(precision):
    torch.manual_seed(0)
    net = JointNet(dataclasses.replace(ModelConfig.named("lite"), crop_size=(128, 192))).eval()
    return torch_network(net, Settings.resolve(reference_defaults(memory=4, interval=2)), precision, "cuda")


def noise():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def squares():
    mask = np.zeros(SIZE, np.uint8)
    mask[60:120, 80:160] = 1
    mask[130:190, 200:280] = 2
    return mask


@pytest.fixture(params=["fp32", "fp16"])
def segmenter(request):
    segmenter = Segmenter(DeviceFollower(network(request.param)))
    segmenter.step(noise(), squares())
    for _ in range(12):
        segmenter.step(noise())
    return segmenter


def test_the_steady_state_never_waits_for_the_host(segmenter):
    frame = noise()
    segmenter.tracking.network.lane.wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = [segmenter.submit(frame) for _ in range(20)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(p.result().shape == SIZE for p in pending)


def test_graphs_and_memory_stay_as_they_are(segmenter):
    """Free memory is the driver's own figure."""
    lane, frame = segmenter.tracking.network.lane, noise()
    for _ in segmenter.stream(frame for _ in range(100)):
        pass
    lane.wait()
    captured, (free, _) = lane.captured, torch.cuda.mem_get_info()
    # The frame, the update, and nothing for the first filter, which was learned once.
    assert captured == 2
    for labels in segmenter.stream(frame for _ in range(FRAMES)):
        assert labels.shape == SIZE
    assert lane.captured == captured
    assert torch.cuda.mem_get_info()[0] == free


@pytest.fixture
def pair(net):
    """One segmenter that replays, and one that enqueues the same work call by call."""
    settings = Settings.resolve(reference_defaults(memory=4, interval=2))
    replayed, plain = (Segmenter(DeviceFollower(torch_network(net, settings, "fp32", "cuda"))) for _ in range(2))
    plain.network.capturable = False
    return replayed, plain


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
        torch.cuda.synchronize()


def test_a_replayed_graph_gives_what_plain_calls_give(pair):
    assert max(differ(*pair, 20, lambda t, step: step())) < 1e-2
    assert [s.network.lane.captured for s in pair] == [2, 0]


def test_frames_may_come_from_another_thread(pair):
    """Before a graph was captured, and after: a first call prepares what libraries keep by thread."""
    with ThreadPoolExecutor(1) as other:

        def run(t, step):
            return step() if t in (0, 1, 8, 9) else other.submit(step).result()

        assert max(differ(*pair, 16, run)) < 1e-2
    assert [s.network.lane.captured for s in pair] == [2, 0]


def test_graphs_of_a_batch_are_one_per_frame_and_one_per_pace():
    """And one for the first filters, when a second group of as many objects comes."""
    together = BatchSegmenter(network("fp16"), 2)
    frame, mask = noise(), squares()
    together.step([frame, None], [mask, None])
    together.step([frame, frame], [None, mask])
    for _ in range(12):
        together.step([frame, frame])
    captured = together.network.lane.captured
    for _ in range(20):
        together.step([frame, frame])
    assert together.network.lane.captured == captured == 4
