"""Crops, prompts and simulated clicks against geometry and SciPy's exact distances."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jointrt.runtime.clicks.prompts import (
    RADIUS,
    Click,
    Window,
    box_of,
    prompt_planes,
    snapped,
    whole,
    window_about,
)
from jointrt.runtime.clicks.simulated import next_click
from scipy.ndimage import distance_transform_edt, find_objects

SHAPE = (240, 427)


@given(st.integers(0, 400), st.integers(0, 220), st.integers(1, 300), st.integers(1, 200))
def test_a_crop_holds_its_object_and_lies_in_the_picture(x, y, width, height):
    box = (x, y, min(x + width, SHAPE[1]), min(y + height, SHAPE[0]))
    for window in (window_about(box, SHAPE), snapped(window_about(box, SHAPE), SHAPE)):
        assert 0 <= window.top <= box[1]
        assert box[3] <= window.bottom <= SHAPE[0]
        assert 0 <= window.left <= box[0]
        assert box[2] <= window.right <= SHAPE[1]
        assert min(window.size) >= 32


def test_a_box_is_the_smallest_one():
    mask = np.zeros(SHAPE, bool)
    mask[30:50, 100:180] = mask[45:90, 120:130] = True
    rows, columns = find_objects(mask.astype(int))[0]
    assert box_of(mask) == (columns.start, rows.start, columns.stop, rows.stop)
    assert box_of(np.zeros(SHAPE, bool)) is None


def test_what_is_cut_out_comes_back_in_its_place():
    mask = np.zeros(SHAPE, np.float32)
    cv2.ellipse(mask, (200, 120), (70, 40), 20, 0, 360, 1.0, cv2.FILLED)
    window = window_about(box_of(mask > 0.5), SHAPE)
    logits = 20 * window.cut_mask(mask, 320) - 10
    back = window.paste(logits, SHAPE) > 0.5
    assert ((back & (mask > 0.5)).sum() / (back | (mask > 0.5)).sum()) > 0.98


def test_disks_lie_where_their_clicks_do():
    window, side = Window(40, 60, 200, 300), 320
    planes = prompt_planes(window, side, [Click(180, 100), Click(80, 190, positive=False)], None, None)
    for plane, (x, y) in zip(planes[:2], [(180, 100), (80, 190)], strict=True):
        rows, columns = np.nonzero(plane)
        expected = (y + 0.5 - 40) * side / 160, (x + 0.5 - 60) * side / 240
        assert (rows.mean(), columns.mean()) == pytest.approx(expected, abs=1)
        assert len(rows) == pytest.approx(np.pi * RADIUS**2, rel=0.25)
    assert not planes[2:].any()


def test_outside_of_a_box_is_marked():
    planes = prompt_planes(whole((100, 200)), 200, (), (50, 25, 150, 75), None)
    expected = np.ones((200, 200), np.float32)
    expected[50:150, 50:150] = 0
    assert np.array_equal(planes[3], expected)


@pytest.mark.parametrize("seed", range(6))
def test_the_next_click_is_in_the_middle_of_the_widest_error(seed):
    noise = np.random.default_rng(seed).normal(size=(2, 90, 120)).astype(np.float32)
    true, found = (cv2.GaussianBlur(plane, (0, 0), 7) > 0.02 for plane in noise)
    click = next_click(true, found)
    depths = [distance_transform_edt(np.pad(error, 1))[1:-1, 1:-1] for error in (true & ~found, found & ~true)]
    assert click.positive == true[int(click.y), int(click.x)]
    # OpenCV's distances are approximate.
    assert depths[0 if click.positive else 1][int(click.y), int(click.x)] > 0.97 * max(d.max() for d in depths)


def test_a_place_is_not_clicked_twice_and_nothing_wrong_is_not_clicked():
    true = np.zeros((40, 40), bool)
    true[10:31, 10:31] = True
    nothing = np.zeros_like(true)
    first = next_click(true, nothing)
    second = next_click(true, nothing, [first])
    assert (first.x, first.y) == (20, 20)
    assert (second.x, second.y) != (20, 20)
    assert next_click(true, true) is None
