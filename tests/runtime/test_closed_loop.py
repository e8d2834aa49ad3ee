"""The exported bundle against the released tracker, frame by frame."""

import json

import numpy as np
import pytest
from jointrt.runtime.segmenter import Segmenter
from PIL import Image


def run(segmenter, golden, render, name, predictions, frames=None):
    images, _ = render(name)
    clip = golden / "clips" / name
    recorded = {(r["frame"], r["obj"]): r for r in json.loads((clip / "records.json").read_text())}
    for t, image in enumerate(images[:frames]):
        given = clip / "ann" / f"{t:05d}.png"
        labels = segmenter.step(image, np.array(Image.open(given)) if given.exists() else None)
        expected = np.array(Image.open(predictions / name / "pred" / f"{t:05d}.png"))
        for object_id in segmenter.object_ids:
            a, b = labels == object_id, expected == object_id
            assert (a & b).sum() >= 0.995 * (a | b).sum(), (name, t, object_id)
            yield segmenter.tracking.trackers[object_id], recorded[t, str(object_id)]


@pytest.mark.parametrize(
    ("name", "frames", "backend"),
    [
        ("late", None, "onnxruntime"),
        ("cross", 16, "onnxruntime"),
        ("single", 12, "onnxruntime"),
        ("late", None, "openvino"),
    ],
)
def test_masks_boxes_and_windows_are_the_released_ones(paper_bundle, golden, render, name, frames, backend):
    segmenter = Segmenter.load(paper_bundle.folder, backend=backend)
    for tracker, record in run(segmenter, golden, render, name, golden / "clips", frames):
        np.testing.assert_allclose(tracker.state.pos, record["pos"], atol=0.5)
        assert float(tracker.state.target_scale) == pytest.approx(record["target_scale"], rel=1e-4)
        if record["kind"] == "track":
            assert list(tracker.window.coordinates) == record["sample_coords_tlbr"]
            weights = np.array(record["sample_weights"])
            np.testing.assert_allclose(tracker.weights.current, weights, atol=1e-5)


def test_the_older_score_resize_too(paper_bundle, golden, render):
    segmenter = Segmenter.load(paper_bundle.folder, score_resize="ratio")
    compared = sum(1 for _ in run(segmenter, golden, render, "late", golden / "clips_ratio"))
    assert compared == 21
