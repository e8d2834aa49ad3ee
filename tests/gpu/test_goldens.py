"""The device's masks against those of the released code: closed loops over the recorded clips, full size."""

import numpy as np
import pytest
import torch
from jointrt.export.reference import reference_defaults
from jointrt.export.torch_network import torch_network
from jointrt.runtime.device_segmenter import DeviceSegmenter
from jointrt.runtime.settings import Settings
from PIL import Image

FLOOR = {"fp32": 0.995, "fp16": 0.99}


def overlaps(net, device, precision, golden, clip, images, folder="clips", **changes):
    """IoU of every object and frame with the released tracker's."""
    settings = Settings.resolve(reference_defaults(), **changes)
    segmenter = DeviceSegmenter(torch_network(net, settings, precision, device))
    for t, image in enumerate(images):
        given = golden / "clips" / clip / "ann" / f"{t:05d}.png"
        labels = segmenter.step(image, np.array(Image.open(given)) if given.exists() else None)
        expected = np.array(Image.open(golden / folder / clip / "pred" / f"{t:05d}.png"))
        for object_id in segmenter.object_ids:
            a, b = labels == object_id, expected == object_id
            yield (a & b).sum() / (a | b).sum()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("clip", "folder", "resize"),
    [
        ("single", "clips", "given"),
        ("cross", "clips", "given"),
        ("late", "clips", "given"),
        ("late", "clips_ratio", "ratio"),
    ],
)
def test_masks_on_a_gpu_are_the_released_ones(paper_net, golden, render, clip, folder, resize, precision):
    found = list(overlaps(paper_net, "cuda", precision, golden, clip, render(clip)[0], folder, score_resize=resize))
    assert np.mean(found) >= FLOOR[precision]
    assert precision == "fp16" or min(found) >= FLOOR[precision]
