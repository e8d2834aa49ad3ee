import dataclasses

import numpy as np
import pytest
import torch
from jointrt.export.reference import reference_defaults, reference_segmenter
from jointrt.export.torch_segmenter import TorchSegmenter
from jointrt.model.config import ModelConfig
from jointrt.model.network import JointNet
from jointrt.runtime.cuda_devices import query_cuda_driver
from jointrt.runtime.errors import DeviceError, MaskError, SettingsError
from jointrt.runtime.settings import Settings

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = JointNet(dataclasses.replace(ModelConfig.named("lite"), crop_size=(64, 96)))
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train().backbone(torch.rand(4, 3, 64, 96) * 255)
        net.decoder.project.conv2.weight.mul_(40)
    return net.eval()


def settings(**changes):
    return Settings.resolve(reference_defaults(memory=3, interval=2), threads=1, **changes)


def video(frames):
    """Coloured squares that move over noise, and their first label maps; the second one appears at frame 2."""
    generator = np.random.default_rng(0)
    background = generator.integers(0, 80, (120, 160, 3), dtype=np.uint8)
    for t in range(frames):
        frame, labels = background.copy(), np.zeros((120, 160), np.uint8)
        for object_id, top, left, colour in (
            (1, 20 + 2 * t, 30 + 3 * t, (250, 40, 0)),
            (4, 60, 100 - 2 * t, (0, 90, 250)),
        ):
            frame[top : top + 36, left : left + 40] = colour
            labels[top : top + 36, left : left + 40] = object_id
        yield frame, {0: np.where(labels == 1, labels, 0).astype(np.uint8), 2: labels}.get(t)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_video_on_a_device_follows_the_released_algorithm(net, device, precision):
    """Frame by frame from the same probabilities and states: the merged probability maps agree.

    The reference encodes its whole memory anew and learns by the network's own forward passes. The memory grows, fills
    and is replaced, and a second object appears on the way.
    """
    reference = reference_segmenter(net, settings())
    tested = TorchSegmenter(net, settings(), device, precision)
    for t, (frame, mask) in enumerate(video(10)):
        expected = reference.step(frame, mask)
        found = tested.step(frame, mask)
        maps = np.stack(list(reference.probabilities().values()))
        mine = tested.probabilities.cpu().numpy()
        # Random weights give flat maps: what counts is the error against what varies in them.
        assert np.abs(maps - mine).mean() < {"fp32": 1e-3, "fp16": 0.3}[precision] * maps.std(), t
        assert precision == "fp16" or (found == expected).mean() > 0.995, t
        assert (found > 0).any()
        tested.probabilities.copy_(torch.from_numpy(maps))
    assert tested.ids == [1, 4]
    assert tested.groups[0].stored.item() == 3


def test_what_cannot_be_done_is_refused(net):
    with pytest.raises(SettingsError, match="both branches"):
        TorchSegmenter(net, settings(branches="induction"), "cpu")
    with pytest.raises(MaskError, match="no object"):
        TorchSegmenter(net, settings(), "cpu", "fp32").step(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.skipif(query_cuda_driver().problem is None, reason="this machine has a GPU")
def test_a_missing_gpu_is_named(net):
    with pytest.raises(DeviceError, match="driver"):
        TorchSegmenter(net, settings(), "cuda")
