"""What only a GPU can show: nothing waits for the host, nothing is captured or allocated after the first frames."""

import dataclasses

import numpy as np
import pytest
import torch
from jointrt.export.reference import reference_defaults
from jointrt.export.torch_segmenter import TorchSegmenter
from jointrt.model.config import ModelConfig
from jointrt.model.network import JointNet
from jointrt.runtime.settings import Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")
FRAMES = 3000


@pytest.fixture(params=["fp32", "fp16"])
def segmenter(request):
    torch.manual_seed(0)
    net = JointNet(dataclasses.replace(ModelConfig.named("lite"), crop_size=(128, 192))).eval()
    settings = Settings.resolve(reference_defaults(memory=4, interval=2))
    segmenter = TorchSegmenter(net, settings, "cuda", request.param)
    frame = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    mask = np.zeros((240, 320), np.uint8)
    mask[60:120, 80:160] = 1
    mask[130:190, 200:280] = 2
    segmenter.step(frame, mask)
    for _ in range(12):
        segmenter.step(frame)
    return segmenter


def test_the_steady_state_never_waits_for_the_host(segmenter):
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            segmenter.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_graphs_and_memory_stay_as_they_are(segmenter):
    """Free memory is the driver's own figure."""
    torch.cuda.synchronize()
    captured, (free, _) = segmenter.captured_graphs, torch.cuda.mem_get_info()
    assert captured == 2
    for _ in range(FRAMES):
        segmenter.advance()
    torch.cuda.synchronize()
    assert segmenter.captured_graphs == captured
    assert torch.cuda.mem_get_info()[0] == free
