import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jointrt.runtime import crop, device_geometry
from jointrt.runtime.aggregation import soft_aggregation
from jointrt.runtime.sample_weights import INITIAL_SHARE, LEARNING_RATE
from jointrt.runtime.target_state import TargetState

UNITS = Path(__file__).parents[1] / "data" / "golden"
CROP = (480, 832)


def released(name):
    """What the released code gave for single functions."""
    return [r for r in json.loads((UNITS / "units.json").read_text()) if r["fn"] == name]


def place(image_size, pos, scale):
    sample = torch.tensor([scale], dtype=torch.float32)[:, None] * torch.tensor([CROP], dtype=torch.float32)
    return device_geometry.place_windows(image_size, torch.tensor([pos], dtype=torch.float32), sample, CROP)


def window_of(tlbr):
    top, left, bottom, right = tlbr
    return device_geometry.DeviceWindow(
        torch.tensor([[top, left]]),
        torch.tensor([[bottom, right]]),
        torch.ones(1, 1, dtype=torch.long),
        torch.zeros(1, 2, dtype=torch.long),
    )


@pytest.mark.parametrize(
    "record", [r for r in released("sample_patch") if r["clip"] in ("single", "leave")], ids=lambda r: r["key"]
)
def test_windows_are_placed_as_the_released_code_places_them(record):
    window = place((480, 854), record["pos"], record["scale"])
    found = torch.cat((window.start, window.stop), 1) * window.stride
    assert found[0].tolist() == record["coord_tlbr"]


@pytest.mark.parametrize("record", released("convert_scores_crop_to_image"), ids=lambda r: r["key"])
def test_scores_are_pasted_where_the_released_code_pastes_them(record):
    y, x = np.mgrid[:480, :832].astype(np.float32)
    scores = (6 * np.sin(0.021 * y + 0.3) * np.cos(0.017 * x) + 0.01 * y - 0.004 * x).astype(np.float32)
    pasted = device_geometry.paste_logits(
        torch.from_numpy(scores)[None, None], window_of(record["coord_tlbr"]), tuple(record["im_hw"])
    )[0]
    inside = pasted != crop.OUTSIDE
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    r0, r1, c0, c1 = record["rect_r0r1c0c1"]
    assert [int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1] == [r0, r1, c0, c1]
    assert float(pasted[r0:r1, c0:c1].double().mean()) == pytest.approx(record["mean_inside"], abs=1e-5)


@pytest.mark.parametrize("record", released("get_target_state"))
def test_moments_are_those_of_the_released_code(record):
    amplitude, cy, cx, sy, sx = record["gauss"]
    y, x = np.mgrid[: record["hw"][0], : record["hw"][1]]
    p = (amplitude * np.exp(-0.5 * (((y - cy) / sy) ** 2 + ((x - cx) / sx) ** 2))).astype(np.float32)
    base = torch.tensor([record["sz"]], dtype=torch.float32)
    pos, scale = device_geometry.update_state(
        torch.from_numpy(p)[None], torch.tensor([[1.0, 2.0]]), torch.ones(1, 1), base
    )
    assert pos[0].tolist() == pytest.approx(record["pos"], abs=1e-3)
    assert float(scale) == pytest.approx(1, abs=1e-5)


def test_sample_weights_follow_the_released_history():
    for record in released("update_sample_weights"):
        weights = torch.zeros(1, record["memory"])
        weights[0, 0] = 1
        stored, previous = torch.ones(1, 1, dtype=torch.long), torch.full((1, 1), -1)
        for step in record["history"]:
            weights, stored, previous, one_hot = device_geometry.insert_sample(
                weights, stored, previous, LEARNING_RATE, INITIAL_SHARE
            )
            assert previous.item() == step["replace_ind"] == one_hot.argmax().item()
            assert stored.item() == step["num"]
            assert weights[0].tolist() == pytest.approx(step["w"], abs=2e-6)


def test_a_batch_of_objects_is_cut_pasted_and_moved_as_one_by_one():
    """Against the arrays of the CPU path, over frames larger, smaller and narrower than the crop."""
    generator = np.random.default_rng(0)
    for size in ((480, 854), (1080, 1920), (200, 150)):
        frame = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        masks = generator.random((6, *size), dtype=np.float32)
        pos = generator.uniform(-0.1, 1.1, (6, 2)).astype(np.float32) * np.float32(size)
        scale = generator.uniform(0.2, 1.5, (6, 1)).astype(np.float32) * np.float32(max(size) / 854)
        samples = scale * np.float32(CROP)
        windows = device_geometry.place_windows(size, torch.from_numpy(pos), torch.from_numpy(samples), CROP)
        images = device_geometry.cut_images(
            torch.from_numpy(np.stack((frame[::-1], frame))), torch.ones(6, dtype=torch.long), windows, CROP
        )
        labels = device_geometry.cut_masks(torch.from_numpy(masks), windows, CROP)
        logits = generator.standard_normal((6, 1, *CROP)).astype(np.float32)
        pasted = {
            resize: device_geometry.paste_logits(torch.from_numpy(logits), windows, size, resize)
            for resize in ("given", "ratio")
        }
        for i in range(6):
            window = crop.place_window(size, pos[i], samples[i], CROP, keep_inside=True)
            assert (window.top, window.left) == tuple(windows.start[i].tolist())
            assert (window.bottom, window.right) == tuple(windows.stop[i].tolist())
            assert window.stride == windows.stride[i].item() and window.offset == tuple(windows.offset[i].tolist())
            image = crop.cut_image(frame, window, CROP)
            np.testing.assert_allclose(images[i].permute(1, 2, 0).numpy(), image, atol=0.05)
            np.testing.assert_array_equal(labels[i, 0].numpy(), crop.cut_mask(masks[i], window, CROP))
            top, left, bottom, right = window.coordinates
            centre = np.float32(0.5) * crop.vector((top + bottom - 1, left + right - 1))
            ratio = np.sqrt(np.prod(crop.vector((bottom - top, right - left)) / crop.vector(CROP)))
            for resize, scores in pasted.items():
                inside, region = crop.paste_scores(logits[i, 0], centre, ratio, size, resize)
                expected = np.full(size, crop.OUTSIDE, np.float32)
                expected[region] = inside
                np.testing.assert_allclose(scores[i].numpy(), expected, atol=2e-3)


def test_states_of_a_batch_move_as_one_by_one():
    y, x = np.mgrid[:120, :160].astype(np.float32)
    maps = np.stack([np.exp(-(((y - c) / 15) ** 2) - ((x - 2 * c) / 25) ** 2) for c in (20, 50, 80)])
    maps = np.concatenate((maps, np.zeros((1, 120, 160)))).astype(np.float32)
    masks = maps > 0.5
    masks[3, 4:9, 4:9] = True
    states = [TargetState.from_mask(mask, (64, 96), 5.0) for mask in masks]
    pos, scale, base = (
        torch.from_numpy(np.stack([np.atleast_1d(getattr(s, name)) for s in states]))
        for name in ("pos", "target_scale", "base_target_size")
    )
    pos, scale = device_geometry.update_state(torch.from_numpy(maps), pos, scale, base)
    windows = device_geometry.search_windows(pos, scale, (120, 160), (64, 96), 16, 3)
    for i, state in enumerate(states):
        state.update(maps[i], (0, 0))
        assert pos[i].tolist() == pytest.approx(state.pos.tolist(), abs=1e-4)
        assert scale[i].item() == pytest.approx(float(state.target_scale), rel=1e-6)
        offset = np.float32([8 * ((64 // 16 + 3) % 2), 8 * ((96 // 16 + 3) % 2)])
        sample = state.target_scale * crop.vector((64, 96))
        centre = state.pos + offset * state.target_scale
        window = crop.place_window((120, 160), centre, sample, (64, 96), keep_inside=True)
        assert (window.top, window.left, window.bottom, window.right) == (
            *windows.start[i].tolist(),
            *windows.stop[i].tolist(),
        )


def test_scores_merge_as_on_the_cpu_even_where_exponentials_overflow():
    scores = np.random.default_rng(1).normal(0, 30, (3, 20, 30)).astype(np.float32)
    scores[0, :5], scores[1, :5] = 100, -100
    found = device_geometry.soft_aggregation(torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, soft_aggregation(scores), atol=1e-6)


def test_videos_with_fewer_objects_are_filled_up_without_a_trace():
    scores = torch.from_numpy(np.random.default_rng(2).normal(0, 30, (2, 3, 20, 30)).astype(np.float32))
    scores[0, 2] = crop.OUTSIDE
    found = device_geometry.soft_aggregation(scores)
    torch.testing.assert_close(found[0, :3], device_geometry.soft_aggregation(scores[0, :2]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], device_geometry.soft_aggregation(scores[1]), rtol=0, atol=1e-6)
    assert found[0, 3].max() < 1e-30
