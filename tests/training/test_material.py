"""What is taken from folders, and where clips are cut."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jointrt.errors import DatasetError
from jointrt.model.config import ModelConfig
from jointrt.runtime.tracking.crop import cut_mask, place_window
from jointrt.runtime.tracking.target_state import TargetState
from jointrt.training.draw import Draw
from jointrt.training.film_clips import film_clip, keep_inside, search_place
from jointrt.training.frame_store import FrameStore
from jointrt.training.material import Film, find_material, steady_parts
from jointrt.training.motion import ThinPlate

CPU = torch.device("cpu")
CONFIG = ModelConfig(crop_size=(96, 160))


def disc(size: tuple[int, int], row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return ((rows - row) ** 2 + (columns - column) ** 2 <= radius**2).astype(np.uint8)


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array)
    return path


def test_pictures_with_undecided_masks_or_unfit_areas_are_refused(tmp_path: Path) -> None:
    for name, radius in (("good", 20), ("undecided", 20), ("speck", 1), ("all", 300)):
        write(tmp_path / "images" / f"{name}.png", np.zeros((100, 120, 3), np.uint8))
        write(tmp_path / "masks" / f"{name}.png", 255 * disc((100, 120), 50, 60, radius))
    (tmp_path / "meta.json").write_text(json.dumps({"undecided": {"decisive": 0.4}}))
    write(tmp_path / "coco" / "images" / "two.png", np.zeros((100, 120, 3), np.uint8))
    write(tmp_path / "coco" / "instances" / "two.png", disc((100, 120), 30, 30, 9) + 2 * disc((100, 120), 70, 90, 9))
    material = find_material([tmp_path], FrameStore(CPU, 1 << 20))
    assert [(p.image.stem, p.label) for p in material.pictures] == [("good", None), ("two", 1), ("two", 2)]
    assert material.refused == 3


def test_films_are_parted_where_a_mask_made_by_a_network_jumps() -> None:
    places = [(50, 50, 12), (50, 54, 12), (50, 58, 12), (50, 62, 24), (50, 66, 24), (10, 110, 24), (0, 0, 0.1)]
    masks = [torch.from_numpy(disc((100, 120), *place)).bool() for place in places]
    assert steady_parts(masks) == [range(0, 3), range(3, 5), range(5, 6)]


def test_davis_without_its_training_list_is_refused(tmp_path: Path) -> None:
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / kind / "480p" / "dog").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"train\.txt"):
        find_material([tmp_path], FrameStore(CPU, 0))


@pytest.mark.parametrize("circle", [(60, 80, 14), (60, 15, 14), (100, 200, 60)])
def test_crops_are_those_of_the_runtime(tmp_path: Path, circle: tuple[int, int, int]) -> None:
    size = (240, 400)
    mask = disc(size, *circle)
    image = write(tmp_path / "frame.png", np.zeros((*size, 3), np.uint8))
    label = write(tmp_path / "mask.png", 255 * mask)
    film = Film("film", ((image, label),) * 4, ids=False)
    clip = film_clip(film, FrameStore(CPU, 0), CONFIG, 4, 100, Draw(CPU, 0), augment=False)
    assert clip is not None
    state = TargetState.from_mask(mask.astype(bool), CONFIG.crop_size, CONFIG.search_factor)
    state.update(mask.astype(np.float32), (0, 0))
    window = place_window(size, state.pos, state.target_scale * np.float32(CONFIG.crop_size), CONFIG.crop_size, True)
    runtime = cut_mask(mask.astype(np.float32), window, CONFIG.crop_size) > 0.5
    ours = clip.masks[2].numpy() > 0.5
    assert (runtime & ours).sum() / (runtime | ours).sum() > 0.85


def test_crops_never_grow_beyond_both_of_the_frames_sides() -> None:
    place = search_place(torch.ones(240, 400, dtype=torch.bool), CONFIG)
    assert place is not None
    assert keep_inside(place, (240, 400), CONFIG) == (200, 120, 2.5)


def test_a_thin_plate_spline_keeps_affine_motions_and_meets_its_control_points() -> None:
    size = (512, 768)
    spline = ThinPlate(size, (4, 6), CPU)
    rows, columns = np.mgrid[:4, :6]
    control = torch.tensor(
        np.stack(((columns + 0.5) * 128, (rows + 0.5) * 128), -1).reshape(-1, 2), dtype=torch.float32
    )
    matrix = torch.tensor([[0.9, 0.1], [-0.2, 1.1]])
    moved = spline(control @ matrix)
    pixels = torch.stack(torch.meshgrid(torch.arange(768) + 0.5, torch.arange(512) + 0.5, indexing="xy"), -1)
    inner = (slice(16, -16), slice(16, -16))
    torch.testing.assert_close(moved[inner], (pixels @ matrix)[inner], atol=0.02, rtol=0)
    bumps = torch.zeros(24, 2)
    bumps[9] = torch.tensor((5.0, -3.0))
    at_control = spline(bumps)[64::128, 64::128].reshape(-1, 2)
    torch.testing.assert_close(at_control, bumps, atol=0.5, rtol=0)
