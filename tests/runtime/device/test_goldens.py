"""The device's masks against those of the released code: the recorded clips, full size."""

import contextlib

import numpy as np
import pytest
import torch
from jointrt.export.parity.reference import reference_defaults
from jointrt.export.parity.torch_network import torch_network
from jointrt.runtime.device.follower import DeviceFollower
from jointrt.runtime.segmenter import Segmenter
from jointrt.runtime.settings import Settings
from PIL import Image

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")
CLIPS = [
    ("single", "clips", "given"),
    ("cross", "clips", "given"),
    ("late", "clips", "given"),
    ("late", "clips_ratio", "ratio"),
]
CASES = [
    # A memory update, and a second object; the memory does not fill before the tenth frame.
    pytest.param("cpu", "late", "clips", "given", 3, 7, id="cpu-late"),
    *(pytest.param("cuda", *clip, 20, None, marks=GPU, id="-".join(("cuda", *clip))) for clip in CLIPS),
]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(("device", "clip", "folder", "resize", "memory", "count"), CASES)
def test_masks_are_the_released_ones(
    paper_net, golden, render, half_arithmetic, record_property, device, clip, folder, resize, memory, count
):
    """On the CPU fp32 in a closed loop; everywhere else from its probabilities, so that windows are cut alike.

    Windows begin and end at whole pixels, and clips of these weights go another way from the first one that differs:
    in fp32 too, after a scale has changed by 1e-4 once. So half precision is measured by the true masks too, on a GPU
    by itself, and how far fp32 goes there by itself is written into the report.
    """
    settings = Settings.resolve(reference_defaults(memory), score_resize=resize)

    def segmenter(precision, device=device):
        return Segmenter(DeviceFollower(torch_network(paper_net, settings, precision, device)))

    leader, half = segmenter("fp32", "cpu"), segmenter("fp16")
    led = [half] if device == "cpu" else [half, segmenter("fp32")]
    alone, free = (None, None) if device == "cpu" else (segmenter("fp16"), segmenter("fp32"))
    frames, truth = render(clip)
    lost, by_itself_iou = [], []
    with half_arithmetic() if device == "cpu" else contextlib.nullcontext():
        for t, frame in enumerate(frames[:count]):
            given = golden / "clips" / clip / "ann" / f"{t:05d}.png"
            mask = np.array(Image.open(given)) if given.exists() else None
            found, *others = (s.step(frame, mask) for s in (leader, *led))
            by_itself = others[0] if alone is None else alone.step(frame, mask)
            released = np.array(Image.open(golden / folder / clip / "pred" / f"{t:05d}.png"))
            went = None if free is None else free.step(frame, mask)
            for i in leader.object_ids:
                assert iou(found == i, released == i) >= 0.995, (t, i)
                for other, least in zip(others, (0.99, 0.995), strict=False):
                    assert iou(other == i, released == i) >= least, (t, i)
                lost.append(iou(released == i, truth[t] == i) - iou(by_itself == i, truth[t] == i))
                if went is not None:
                    by_itself_iou.append(iou(went == i, released == i))
            for segmenter_led in led:
                segmenter_led.tracking.batch.tensors["probability"].copy_(leader.tracking.batch.tensors["probability"])
    if by_itself_iou:
        record_property("fp32 by itself: mean and smallest IoU", f"{np.mean(by_itself_iou)}, {min(by_itself_iou)}")
    assert np.mean(lost) < 0.005
