import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jointrt.runtime.device import geometry as device_geometry
from jointrt.runtime.tracking import crop
from jointrt.runtime.tracking.aggregation import soft_aggregation
from jointrt.runtime.tracking.sample_weights import INITIAL_SHARE, KEPT_SHARE, LEARNING_RATE, SampleWeights
from jointrt.runtime.tracking.target_state import TargetState
from torch.utils._python_dispatch import TorchDispatchMode

UNITS = Path(__file__).parents[2] / "data" / "golden"
CROP = (480, 832)


class AsAGpuDivides(TorchDispatchMode):
    """By a number of the host: it multiplies by the reciprocal, which may be one bit off."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.div.Tensor and args[0].is_floating_point() and not isinstance(args[1], torch.Tensor):
            return args[0] * torch.ones((), dtype=args[0].dtype).div(torch.full((), args[1], dtype=args[0].dtype))
        return func(*args, **(kwargs or {}))


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")


@pytest.fixture(params=["cpu", "cpu, as a GPU divides", pytest.param("cuda", marks=NO_GPU)])
def on(request):
    """Arrays to tensors on a device."""

    def to_device(array):
        return torch.as_tensor(array, device=request.param.partition(",")[0])

    if "divides" in request.param:
        with AsAGpuDivides():
            yield to_device
    else:
        yield to_device


def released(name):
    """What the released code gave for single functions."""
    return [r for r in json.loads((UNITS / "units.json").read_text()) if r["fn"] == name]


def place(on, image_size, pos, scale):
    sample = np.float32([[scale]]) * np.float32([CROP])
    return device_geometry.place_windows(image_size, on(np.float32([pos])), on(sample), CROP)


def window_of(on, tlbr):
    return device_geometry.DeviceWindow(*(on([values]) for values in (tlbr[:2], tlbr[2:], [1], [0, 0])))


@pytest.mark.parametrize(
    "record", [r for r in released("sample_patch") if r["clip"] in ("single", "leave")], ids=lambda r: r["key"]
)
def test_windows_are_placed_as_the_released_code_places_them(record, on):
    window = place(on, (480, 854), record["pos"], record["scale"])
    found = torch.cat((window.start, window.stop), 1) * window.stride
    assert found[0].tolist() == record["coord_tlbr"]


@pytest.mark.parametrize("record", released("convert_scores_crop_to_image"), ids=lambda r: r["key"])
def test_scores_are_pasted_where_the_released_code_pastes_them(record, on):
    y, x = np.mgrid[:480, :832].astype(np.float32)
    scores = (6 * np.sin(0.021 * y + 0.3) * np.cos(0.017 * x) + 0.01 * y - 0.004 * x).astype(np.float32)
    pasted = device_geometry.paste_logits(
        on(scores)[None, None], window_of(on, record["coord_tlbr"]), tuple(record["im_hw"])
    )[0]
    inside = pasted != crop.OUTSIDE
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    r0, r1, c0, c1 = record["rect_r0r1c0c1"]
    assert [int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1] == [r0, r1, c0, c1]
    assert float(pasted[r0:r1, c0:c1].double().mean()) == pytest.approx(record["mean_inside"], abs=1e-5)


@pytest.mark.parametrize("record", released("get_target_state"))
def test_moments_are_those_of_the_released_code(record, on):
    amplitude, cy, cx, sy, sx = record["gauss"]
    y, x = np.mgrid[: record["hw"][0], : record["hw"][1]]
    p = (amplitude * np.exp(-0.5 * (((y - cy) / sy) ** 2 + ((x - cx) / sx) ** 2))).astype(np.float32)
    start, base = np.float32([[1, 2]]), np.float32([record["sz"]])
    pos, scale = device_geometry.update_state(on(p[None]), on(start), on(np.ones((1, 1), np.float32)), on(base))
    assert pos[0].tolist() == pytest.approx(record["pos"], abs=1e-3)
    assert float(scale) == pytest.approx(1, abs=1e-5)


def test_sample_weights_follow_the_released_history(on):
    for record in released("update_sample_weights"):
        weights, kept = (on(np.eye(1, record["memory"], dtype=np.float32)) for _ in range(2))
        stored, previous = on([[1]]), on([[-1]])
        for step in record["history"]:
            weights, stored, previous, one_hot = device_geometry.insert_sample(
                weights, stored, previous, kept, LEARNING_RATE, INITIAL_SHARE, KEPT_SHARE
            )
            assert previous.item() == step["replace_ind"] == one_hot.argmax().item()
            assert stored.item() == step["num"]
            assert weights[0].tolist() == pytest.approx(step["w"], abs=2e-6)


def test_corrections_are_kept_and_count_as_on_the_host(on):
    """After corrections of a memory that grows, fills and is replaced."""
    host = SampleWeights(6)
    weights, stored, previous = on(np.eye(1, 6, dtype=np.float32)), on([[1]]), on([[-1]])
    for step in range(30):
        if step in (2, 9, 15):
            slot = host.insert_given()
            weights, stored = on(host.values[None].copy()), on([[host.stored]])
            previous = on([[host.previous]])
            continue
        kept = np.zeros((1, 6), np.float32)
        kept[0, [0, *host.given]] = 1
        slot = host.insert()
        weights, stored, previous, _ = device_geometry.insert_sample(
            weights, stored, previous, on(kept), LEARNING_RATE, INITIAL_SHARE, KEPT_SHARE
        )
        assert previous.item() == slot and stored.item() == host.stored
        assert weights[0].tolist() == pytest.approx(host.values.tolist(), abs=2e-6)


@pytest.mark.parametrize("steady", [False, True])
def test_a_batch_of_objects_is_cut_pasted_and_moved_as_one_by_one(on, steady):
    """Against the arrays of the CPU path, over frames larger, smaller and narrower than the crop."""
    generator = np.random.default_rng(0)
    for size in ((480, 854), (1080, 1920), (200, 150)):
        frame = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        masks = generator.random((6, *size), dtype=np.float32)
        pos = generator.uniform(-0.1, 1.1, (6, 2)).astype(np.float32) * np.float32(size)
        scale = generator.uniform(0.2, 1.5, (6, 1)).astype(np.float32) * np.float32(max(size) / 854)
        samples = scale * np.float32(CROP)
        windows = device_geometry.place_windows(size, on(pos), on(samples), CROP, steady)
        frames, second = on(np.stack((frame[::-1], frame))), on(np.ones(6, np.int64))
        images = device_geometry.cut_images(frames, second, windows, CROP).cpu()
        labels = device_geometry.cut_masks(on(masks), windows, CROP).cpu()
        logits = generator.standard_normal((6, 1, *CROP)).astype(np.float32)
        pasted = {
            resize: device_geometry.paste_logits(on(logits), windows, size, resize).cpu()
            for resize in ("given", "ratio")
        }
        for i in range(6):
            window = crop.place_window(size, pos[i], samples[i], CROP, keep_inside=True, steady=steady)
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


def test_masks_are_cut_to_the_pixel_where_source_and_crop_meet_in_whole_numbers(on):
    """There a scale that is one bit too small takes the pixel before."""
    lengths = [(70, 106), (250, 212), (252, 244), (280, 424)]
    masks = np.random.default_rng(3).random((4, 300, 450), dtype=np.float32)
    windows = device_geometry.DeviceWindow(on([[0, 0]] * 4), on(lengths), on([[1]] * 4), on([[0, 0]] * 4))
    found = device_geometry.cut_masks(on(masks), windows, CROP).cpu().numpy()
    for mask, (height, width), cut in zip(masks, lengths, found[:, 0], strict=True):
        np.testing.assert_array_equal(cut, crop.cut_mask(mask, crop.Window(0, 0, height, width, 1, (0, 0)), CROP))


def test_states_of_a_batch_move_as_one_by_one(on):
    y, x = np.mgrid[:120, :160].astype(np.float32)
    maps = np.stack([np.exp(-(((y - c) / 15) ** 2) - ((x - 2 * c) / 25) ** 2) for c in (20, 50, 80)])
    maps = np.concatenate((maps, np.zeros((1, 120, 160)))).astype(np.float32)
    masks = maps > 0.5
    masks[3, 4:9, 4:9] = True
    states = [TargetState.from_mask(mask, (64, 96), 5.0) for mask in masks]
    pos, scale, base = (
        on(np.stack([np.atleast_1d(getattr(s, name)) for s in states]))
        for name in ("pos", "target_scale", "base_target_size")
    )
    pos, scale = device_geometry.update_state(on(maps), pos, scale, base)
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


def test_scores_merge_as_on_the_cpu_even_where_exponentials_overflow(on):
    scores = np.random.default_rng(1).normal(0, 30, (3, 20, 30)).astype(np.float32)
    scores[0, :5], scores[1, :5] = 100, -100
    found = device_geometry.soft_aggregation(on(scores)).cpu().numpy()
    np.testing.assert_allclose(found, soft_aggregation(scores), atol=1e-6)


def test_videos_with_fewer_objects_are_filled_up_without_a_trace(on):
    scores = on(np.random.default_rng(2).normal(0, 30, (2, 3, 20, 30)).astype(np.float32))
    scores[0, 2] = crop.OUTSIDE
    found = device_geometry.soft_aggregation(scores)
    torch.testing.assert_close(found[0, :3], device_geometry.soft_aggregation(scores[0, :2]), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], device_geometry.soft_aggregation(scores[1]), rtol=0, atol=1e-6)
    assert found[0, 3].max() < 1e-30
