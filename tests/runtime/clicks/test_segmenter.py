"""Masks from clicks on the shipped clip, whose objects were outlined by hand."""

import subprocess
import sys

import numpy as np
import pytest
from jointrt import Click, ClickSegmenter
from jointrt.errors import BundleError, DeviceError, MaskError, SettingsError
from jointrt.export.parity.graphs import read_clip
from jointrt.runtime.bundle import Bundle, find_bundle, is_for_clicks
from jointrt.runtime.clicks.bundle import ClickBundle
from jointrt.runtime.clicks.prompts import box_of
from jointrt.runtime.clicks.segmenter import load_click_engines
from jointrt.runtime.clicks.simulated import next_click

pytestmark = pytest.mark.skipif(not is_for_clicks(find_bundle("lite").parent / "clicks"), reason="no clicks")


@pytest.fixture(scope="module")
def picture():
    """Frame and label map: 1 the woman, 2 the dog."""
    frames, labels = read_clip(1)
    return frames[0], labels


@pytest.fixture(scope="module")
def segmenter(picture):
    loaded = ClickSegmenter.load()
    loaded.set_image(picture[0])
    return loaded


def iou(mask, region):
    return ((mask > 0.5) & region).sum() / ((mask > 0.5) | region).sum()


@pytest.mark.parametrize("object_id", [1, 2])
def test_a_box_is_enough_for_a_mask(picture, segmenter, object_id):
    region = picture[1] == object_id
    mask = segmenter.predict(box=box_of(region))
    assert mask.dtype == np.float32
    assert mask.shape == region.shape
    assert 0 <= mask.min() <= mask.max() <= 1
    assert iou(mask, region) > 0.75


@pytest.mark.parametrize("object_id", [1, 2])
def test_clicks_mend_a_mask(picture, segmenter, object_id):
    region, mask, clicks = picture[1] == object_id, None, []
    curve = []
    for _ in range(8):
        clicks.append(next_click(region, np.zeros_like(region) if mask is None else mask > 0.5, clicks))
        mask = segmenter.predict(clicks, mask=mask)
        curve.append(iou(mask, region))
    assert curve[-1] > 0.8
    assert curve[-1] > curve[0] - 0.02


def test_a_mask_depends_on_what_is_given_alone(picture, segmenter):
    box = box_of(picture[1] == 1)
    before = segmenter.predict(box=box)
    for x in range(40, 800, 70):
        segmenter.predict([Click(x, 240)])
    after = segmenter.predict(box=box)
    fresh = ClickSegmenter.load()
    fresh.set_image(picture[0])
    assert np.array_equal(before, after)
    assert np.array_equal(before, fresh.predict(box=box))


def test_the_picture_is_looked_at_once_while_the_crop_stays(picture):
    bundle = ClickBundle.open("clicks")
    engines, runs = load_click_engines(bundle, 1), []

    class Counted:
        def run(self, inputs, outputs):
            runs.append(1)
            engines["features"].run(inputs, outputs)

    segmenter = ClickSegmenter(bundle, {**engines, "features": Counted()})
    segmenter.set_image(picture[0])
    box = box_of(picture[1] == 2)
    mask = segmenter.predict(box=box)
    for x in (360, 400, 420):
        mask = segmenter.predict([Click(x, 300)], box=box, mask=mask)
    assert len(runs) == 1


def test_the_callers_picture_may_change_afterwards(picture, segmenter):
    frame = picture[0].copy()
    other = ClickSegmenter.load()
    other.set_image(frame)
    frame[:] = 0
    click = [Click(385, 310)]
    assert np.array_equal(other.predict(click), segmenter.predict(click))


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({}, SettingsError, "nothing shows the object"),
        ({"clicks": [Click(10, 10, positive=False)]}, SettingsError, "nothing shows the object"),
        ({"clicks": [Click(900, 10)]}, SettingsError, "the click at 900,10 lies outside of the picture, 854x480"),
        ({"box": (50, 50, 20, 90)}, SettingsError, "x0 below x1"),
        ({"box": (900, 50, 920, 90)}, SettingsError, "lies outside"),
        ({"box": (0, 0, float("nan"), 9)}, SettingsError, "expected x0,y0,x1,y1"),
        ({"clicks": [Click(9, 9)], "mask": np.zeros((4, 5), np.float32)}, MaskError, "the last mask is 5x4"),
        ({"clicks": [Click(9, 9)], "mask": np.full((480, 854), 255, np.float32)}, MaskError, "beyond 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(segmenter, given, error, said):
    with pytest.raises(error, match=said):
        segmenter.predict(**given)


def test_one_kind_of_bundle_is_not_taken_for_the_other():
    with pytest.raises(BundleError, match="bundle for clicks, which follows nothing"):
        Bundle.open("clicks")
    with pytest.raises(BundleError, match="no bundle for clicks"):
        ClickSegmenter.load("lite")
    with pytest.raises(DeviceError, match="does not run clicks"):
        ClickSegmenter.load(backend="tensorrt")


def test_both_backends_give_the_same_masks(picture, segmenter):
    pytest.importorskip("openvino")
    other = ClickSegmenter.load(backend="openvino")
    other.set_image(picture[0])
    region = picture[1] == 1
    box = box_of(region)
    assert iou(other.predict(box=box), segmenter.predict(box=box) > 0.5) > 0.99


def test_clicks_need_no_torch():
    code = "from jointrt import ClickSegmenter; ClickSegmenter.load(); import sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
