"""Crops, pastes, merges, states and weights against what the released code recorded."""

import json

import numpy as np
import pytest
from jointrt.runtime.tracking.aggregation import PastedScores, merge, soft_aggregation, strongest
from jointrt.runtime.tracking.crop import OUTSIDE, cut_image, cut_mask, paste_scores, place_window, vector
from jointrt.runtime.tracking.sample_weights import SampleWeights
from jointrt.runtime.tracking.target_state import TargetState

CROP = (480, 832)
SIZES = {"single": (480, 854), "leave": (480, 854), "hd": (1080, 1920)}


@pytest.fixture(scope="module")
def units(golden):
    with np.load(golden / "units.npz") as arrays:
        return json.loads((golden / "units.json").read_text()), dict(arrays)


def records(units, function):
    found = [r for r in units[0] if r["fn"] == function]
    assert found
    return found


def test_windows(units):
    checked = 0
    for r in records(units, "sample_patch"):
        if r["clip"] in SIZES:
            size = np.float32(r["scale"]) * vector(CROP)
            window = place_window(SIZES[r["clip"]], vector(r["pos"]), size, CROP, keep_inside=True)
            assert list(window.coordinates) == r["coord_tlbr"], r["key"]
            checked += 1
    assert checked == 20


def test_patches(units, render):
    frames, labels = render("single")
    for r in records(units, "sample_patch"):
        if r["clip"] != "single":
            continue
        size = np.float32(r["scale"]) * vector(CROP)
        window = place_window(SIZES["single"], vector(r["pos"]), size, CROP, keep_inside=True)
        if r["is_mask"]:
            found = cut_mask((labels[r["frame"]] == 1).astype(np.float32), window, CROP)[None]
        else:
            found = cut_image(frames[r["frame"]], window, CROP).transpose(2, 0, 1)
        np.testing.assert_allclose(found[:, ::16, ::16], units[1][r["key"]], atol=5e-3)
        assert found.mean() == pytest.approx(r["mean"], abs=1e-3)


def test_pastes(units):
    y, x = np.mgrid[: CROP[0], : CROP[1]].astype(np.float32)
    scores = (6 * np.sin(0.021 * y + 0.3) * np.cos(0.017 * x) + 0.01 * y - 0.004 * x).astype(np.float32)
    for r in records(units, "convert_scores_crop_to_image"):
        scale = np.float32(r["sample_scale"])
        pasted, (rows, columns) = paste_scores(scores, vector(r["sample_pos"]), scale, r["im_hw"], "given")
        assert [rows.start, rows.stop, columns.start, columns.stop] == r["rect_r0r1c0c1"]
        image = np.full(r["im_hw"], -100, np.float32)
        image[rows, columns] = pasted
        step = round(r["im_hw"][0] / units[1][r["key"]].shape[0])
        np.testing.assert_allclose(image[::step, ::step], units[1][r["key"]], atol=1e-4)


def test_a_paste_outside_the_frame_is_empty():
    for pos in ((-900.0, 100.0), (100.0, -2000.0), (3000.0, 100.0), (100.0, 5000.0)):
        pasted, (rows, columns) = paste_scores(
            np.ones(CROP, np.float32), vector(pos), np.float32(1), (480, 854), "given"
        )
        assert pasted.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert not pasted.size


def test_soft_aggregation(units):
    arrays = units[1]
    for n in (1, 2):
        merged = soft_aggregation(arrays[f"merge{n}_in"])
        np.testing.assert_allclose(merged[1:], arrays[f"merge{n}_raw"], atol=1e-6)
        np.testing.assert_array_equal(merged.argmax(0), arrays[f"merge{n}_seg"])
    given = np.where(arrays["merge3_init_mask"] > 0, np.float32(100), np.float32(-100))[None]
    merged = soft_aggregation(np.concatenate([arrays["merge3_in"], given]))
    np.testing.assert_allclose(merged[1:], arrays["merge3_raw"], atol=1e-6)
    np.testing.assert_array_equal(np.array([0, 1, 2, 3, 7])[merged.argmax(0)], arrays["merge3_seg"])


def test_large_maps_are_aggregated_row_by_row_alike():
    scores = np.random.default_rng(0).normal(scale=8, size=(3, 300, 401)).astype(np.float32)
    rows = [soft_aggregation(scores[:, i : i + 1]) for i in range(300)]
    np.testing.assert_array_equal(soft_aggregation(scores), np.concatenate(rows, axis=1))


def test_the_strongest_is_numpys_argmax():
    merged = np.random.default_rng(0).integers(0, 4, (6, 40, 50)).astype(np.float32)
    ids = np.array([0, 9, 3, 255, 7, 1], np.uint8)
    np.testing.assert_array_equal(strongest(merged, ids), ids[merged.argmax(axis=0)])
    assert strongest(merged[:, :0], ids).shape == (0, 50)
    many = np.random.default_rng(0).integers(0, 4, (256, 5, 7)).astype(np.float32)
    np.testing.assert_array_equal(strongest(many, np.arange(256, dtype=np.uint8)), many.argmax(axis=0))


@pytest.mark.parametrize("objects", [1, 3, 7])
def test_the_merge_by_blocks_is_that_of_the_whole_frame(objects):
    """Regions that meet, miss one another, or hold nothing; frames before leave nothing behind in the maps."""
    rng = np.random.default_rng(objects)
    size, ids = (333, 410), np.arange(objects + 1, dtype=np.uint8)
    probabilities, labels = np.full((objects, *size), 7, np.float32), np.full(size, 99, np.uint8)
    pasted, whole = [], np.full((objects, *size), OUTSIDE, np.float32)
    for k in range(objects):
        (top, bottom), (left, right) = np.sort(rng.integers(0, 300, 2)), np.sort(rng.integers(0, 400, 2))
        region = (slice(top, bottom), slice(left, right))
        pasted.append(PastedScores((rng.standard_normal((bottom - top, right - left)) * 9).astype(np.float32), region))
        whole[k][region] = pasted[-1].scores
    region = merge(pasted, ids, probabilities, labels)
    expected = soft_aggregation(whole)
    np.testing.assert_array_equal(probabilities[:, *region], expected[1:, *region])
    np.testing.assert_array_equal(labels[region], expected.argmax(axis=0)[region])
    labels[region], probabilities[:, *region] = 99, 7
    assert (labels == 99).all() and (probabilities == 7).all()
    expected[1:, *region] = 0
    assert not expected[1:].any()


def test_sample_weights(units):
    for r in records(units, "update_sample_weights"):
        weights = SampleWeights(r["memory"])
        for step in r["history"]:
            assert weights.insert() == step["replace_ind"]
            assert weights.stored == step["num"]
            np.testing.assert_allclose(weights.values, step["w"], atol=1e-6)


def test_moments_and_small_masses(units):
    for r in records(units, "get_target_state"):
        amplitude, cy, cx, sy, sx = r["gauss"]
        y, x = np.ogrid[: r["hw"][0], : r["hw"][1]]
        p = (amplitude * np.exp(-0.5 * (((y - cy) / sy) ** 2 + ((x - cx) / sx) ** 2))).astype(np.float32)
        state = TargetState(vector((1, 2)), np.float32(1), vector((3, 4)))
        state.update(p, (0, 0))
        np.testing.assert_allclose(state.pos, r["pos"], rtol=1e-5)
        expected = np.sqrt(np.prod(r["sz"]) / 12)
        assert state.target_scale == pytest.approx(np.clip(expected, 0.95, 1.1), rel=1e-6)


def test_first_states(golden):
    for name in ("single", "cross", "late"):
        for r in json.loads((golden / "clips" / name / "records.json").read_text()):
            if r["kind"] != "init":
                continue
            from PIL import Image

            labels = np.array(Image.open(golden / "clips" / name / "ann" / f"{r['frame']:05d}.png"))
            state = TargetState.from_mask(labels == int(r["obj"]), CROP, 5.0)
            assert float(state.target_scale) == r["target_scale"]
            assert state.pos.tolist() == r["pos"]
            assert state.base_target_size.tolist() == r["base_target_sz"]


def test_steady_windows_as_large_as_the_frame_are_one_whatever_a_scale_s_last_bits():
    """By whole numbers: a crop of 384x672 over 480x854 spans 488 rows, exactly, once it is as wide as the frame."""
    size, crop_size = (480, 854), (384, 672)
    scale = np.float32(1.6)
    found = {True: set(), False: set()}
    for _ in range(400):
        scale = np.nextafter(scale, np.float32(2))
        for steady, windows in found.items():
            sample = scale * vector(crop_size)
            window = place_window(size, vector((200, 400)), sample, crop_size, keep_inside=True, steady=steady)
            windows.add((window.bottom - window.top, window.right - window.left))
    assert found[True] == {(488, 854)}
    assert len(found[False]) > 1
