"""Half precision on the shipped clip, by every graph of the torch backend; emulated where there is no GPU."""

import contextlib
import importlib
from pathlib import Path

import cv2
import jointrt
import numpy as np
import pytest
import torch
from jointrt.export.checkpoint.network import bundle_network
from jointrt.export.graphs.half_precision import single_convolutions
from jointrt.export.parity.reference import reference_defaults
from jointrt.export.parity.torch_network import torch_network
from jointrt.model.backbone import BACKBONES
from jointrt.model.transformer import to_tokens
from jointrt.runtime.bundle import Bundle
from jointrt.runtime.device.engines.torch import HalfBackbone, fused, halve_convolutions
from jointrt.runtime.device.follower import DeviceFollower
from jointrt.runtime.segmenter import Segmenter
from jointrt.runtime.settings import Settings
from jointrt.runtime.video.overlap import mask_iou
from PIL import Image
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")


@pytest.fixture(scope="module")
def parity():
    """What reads the shipped clip, where a library for films is installed."""
    pytest.importorskip("av")
    return importlib.import_module("jointrt.export.parity.graphs")


def shipped_clip(count):
    """Frames and the first label map of the shipped clip, without PyAV, which a GPU machine may lack."""
    folder = Path(jointrt.__file__).parent / "examples"
    film = cv2.VideoCapture(str(folder / "dog.mp4"))
    frames = [film.read()[1][..., ::-1].copy() for _ in range(count)]
    return frames, np.array(Image.open(folder / "dog.png"))


@pytest.fixture(scope="module")
def net():
    return bundle_network(Bundle.open("lite")).eval().requires_grad_(False)


@pytest.mark.parametrize(("device", "count"), [("cpu", 8), pytest.param("cuda", 60, marks=GPU)])
def test_masks_of_the_shipped_clip_are_those_of_the_cpu(net, half_arithmetic, device, count):
    """Each frame from the CPU's probabilities, so that windows are cut alike and only the network's error is left.

    Windows of this clip are as large as the frame, where the last bit of a scale decides about a pixel: without that,
    the CPU's masks do not agree with themselves after a scale has moved by that bit.
    """
    pytest.importorskip("onnxruntime")
    options = {"memory": 3, "interval": 2}
    settings = Settings.resolve(reference_defaults(**options))
    reference = Segmenter.load("lite", **options, windows="released")
    tested = Segmenter(DeviceFollower(torch_network(net, settings, "fp16", device)))
    frames, labels = shipped_clip(count)
    with half_arithmetic() if device == "cpu" else contextlib.nullcontext():
        for t, frame in enumerate(frames):
            mask = None if t else labels
            expected, found = reference.step(frame, mask), tested.step(frame, mask)
            tensors = tested.tracking.batch.tensors
            for index, object_id in enumerate(reference.object_ids):
                assert mask_iou(found == object_id, expected == object_id) >= 0.99, (t, object_id)
                if t:
                    window = reference.tracking.trackers[object_id].window
                    corners = torch.cat((tensors["start"], tensors["stop"]), 1)[index]
                    assert corners.tolist() == [window.top, window.left, window.bottom, window.right]
            maps = reference.probabilities()
            tensors["probability"].copy_(torch.from_numpy(np.stack([maps[i] for i in reference.object_ids])))


@pytest.mark.parametrize(("device", "count"), [("cpu", 6), pytest.param("cuda", 60, marks=GPU)])
def test_steady_windows_hold_by_themselves(net, device, count):
    """In fp32, each from its own probabilities: windows as large as the frame do not hang on a last bit."""
    pytest.importorskip("onnxruntime")
    options = {"memory": 3, "interval": 2, "windows": "steady"}
    reference = Segmenter.load("lite", **options)
    tested = Segmenter(
        DeviceFollower(torch_network(net, Settings.resolve(reference_defaults(3, 2), windows="steady"), "fp32", device))
    )
    frames, labels = shipped_clip(count)
    for t, frame in enumerate(frames):
        expected, found = (s.step(frame, None if t else labels) for s in (reference, tested))
        for object_id in reference.object_ids:
            assert mask_iou(found == object_id, expected == object_id) >= 0.99, (t, object_id)


@torch.no_grad()
def test_what_a_depthwise_filter_takes_is_not_rounded(net, parity, half_arithmetic):
    """The trunk's error with fp32 up to its first depthwise convolution: a third of what it is without."""
    crops = parity.real_sample(net.config.crop_size).crops
    exact = to_tokens(net.extract(crops).x_tra)
    half = fused(net)
    halve_convolutions(half)
    with half_arithmetic():
        found = HalfBackbone(half)(crops)[4].float()
        single = [conv for conv in half.backbone.modules() if isinstance(conv, nn.Conv2d)][:2]
        assert {conv.weight.dtype for conv in single} == {torch.float32}
        for conv in single:
            conv.half().register_forward_pre_hook(lambda module, inputs: inputs[0].half())
        without = HalfBackbone(half)(crops)[4].float()
    error, error_without = ((x - exact).norm() / exact.norm() for x in (found, without))
    assert error < 2.5e-3 < 4e-3 < error_without


@pytest.mark.parametrize(("name", "count"), [("efficientnet_lite0", 2), ("resnet50", 0)])
def test_convolutions_that_stay_single(name, count):
    convolutions = [m for m in BACKBONES[name]().modules() if isinstance(m, nn.Conv2d)]
    assert single_convolutions((c.in_channels // c.groups, c.groups) for c in convolutions) == count
