import numpy as np
import pytest
import supervision
from jointrt.annotations import from_detections, from_rle, to_detections, to_rle
from jointrt.annotations.run_lengths import covered_pixels
from jointrt.errors import MaskError
from pycocotools import mask as coco_mask


@pytest.fixture
def labels():
    """Three objects: one of two parts, one with a hole, one of a single pixel."""
    labels = np.zeros((40, 60), np.uint8)
    labels[2:10, 3:9] = labels[20:25, 40:59] = 2
    labels[12:30, 10:30] = 7
    labels[15:20, 15:20] = 0
    labels[39, 59] = 200
    return labels


def test_detections_are_the_objects(labels):
    found = to_detections(labels)
    assert isinstance(found, supervision.Detections)
    assert found.tracker_id.tolist() == found.class_id.tolist() == [2, 7, 200]
    assert found.xyxy.tolist() == [[3, 2, 59, 25], [10, 12, 30, 30], [59, 39, 60, 40]]
    assert found.data["area"].tolist() == [(labels == i).sum() for i in (2, 7, 200)]
    assert np.array_equal(from_detections(found), labels)
    found.tracker_id, found.class_id = None, found.class_id - 1
    assert np.array_equal(from_detections(found), labels)


def test_a_frame_without_objects(labels):
    found = to_detections(np.zeros_like(labels))
    assert len(found) == 0
    assert np.array_equal(from_detections(found, labels.shape), np.zeros_like(labels))
    with pytest.raises(MaskError, match="give it as"):
        from_detections(found)


def test_detections_that_are_no_label_map(labels):
    found = to_detections(labels)
    found.mask = None
    with pytest.raises(MaskError, match="no masks"):
        from_detections(found)
    found = to_detections(labels)
    found.tracker_id = found.tracker_id + 100
    with pytest.raises(MaskError, match="102 to 300"):
        from_detections(found)


def test_run_lengths_are_those_of_pycocotools(labels):
    runs = to_rle(labels)
    assert list(runs) == [2, 7, 200]
    for i, counts in runs.items():
        mask = coco_mask.decode({"size": list(labels.shape), "counts": counts})
        assert np.array_equal(mask > 0, labels == i)
    assert np.array_equal(from_rle(runs, labels.shape), labels)


def test_the_length_of_run_lengths(rng_masks=50):
    rng = np.random.default_rng(0)
    for _ in range(rng_masks):
        height, width = rng.integers(1, 400, 2)
        mask = rng.random((height, width)) < rng.random() ** 3
        counts = coco_mask.encode(np.asfortranarray(mask))["counts"].decode()
        assert covered_pixels(counts) == height * width


@pytest.mark.parametrize("counts", ["R25", "P13700000`", "\x7f\x00", "", "P13700000`1" * 2])
def test_damaged_run_lengths_are_refused(counts):
    """pycocotools itself would write behind the mask's memory."""
    with pytest.raises(MaskError, match="damaged"):
        from_rle({1: counts}, (10, 12))
