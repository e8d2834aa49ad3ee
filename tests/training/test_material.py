"""What is taken from folders, and where clips are cut."""

import dataclasses
import itertools
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
from jointrt.training.clips.batches import film_shares
from jointrt.training.clips.film_clips import choose_frames, film_clip, keep_inside, search_place
from jointrt.training.clips.frame_store import FrameStore
from jointrt.training.clips.motion import ThinPlate
from jointrt.training.draw import Draw
from jointrt.training.material import Film, Material, find_material, steady_parts
from jointrt.training.settings import TrainSettings

CPU = torch.device("cpu")
CONFIG = ModelConfig(crop_size=(96, 160))
SETTINGS = TrainSettings(model=CONFIG, steps=1, batch=1)


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


def test_films_are_held_out_by_name(tmp_path: Path) -> None:
    films = tuple(Film(name, ((tmp_path, tmp_path),) * 2, ids=True) for name in ("a", "b", "b", "c"))
    kept, held = Material((), films, 0).split(0, ("b",))
    assert [film.name for film in kept.films] == ["a", "c"]
    assert [film.name for film in held] == ["b", "b"]
    with pytest.raises(DatasetError, match="called d"):
        Material((), films, 0).split(0, ("b", "d"))


def test_films_are_drawn_as_often_as_their_weights_say(tmp_path: Path) -> None:
    lengths = (("fast", 10, True), ("slow", 30, True), ("doubtful", 5, False), ("doubtful", 15, False))
    films = tuple(Film(name, ((tmp_path, tmp_path),) * count, ids) for name, count, ids in lengths)
    settings = dataclasses.replace(SETTINGS, often={"fast": 3.0}, doubtful=0.4)
    bounds = [0.0, *film_shares(films, settings), 1.0]
    shares = [high - low for low, high in itertools.pairwise(bounds)]
    assert shares == pytest.approx([3 / 4.4, 1 / 4.4, 0.1 / 4.4, 0.3 / 4.4])


def test_frames_keep_their_stride_and_crops_follow_the_frame_before() -> None:
    settings = dataclasses.replace(SETTINGS, scattered=0.0, strides=(3, 3))
    directions = set()
    for seed in range(40):
        picked, before = choose_frames(30, settings, Draw(CPU, seed))
        step = picked[1] - picked[0]
        directions.add(step)
        assert np.diff(picked).tolist() == [step] * 3
        assert all(0 <= i < 30 for i in picked)
        assert before[0] == picked[0]
        nearest = [i - step // 3 for i in picked[1:]]
        assert all(b in (n, p) for b, n, p in zip(before[1:], nearest, picked, strict=False))
    assert directions == {3, -3}
    assert choose_frames(2, settings, Draw(CPU, 0))[0] in ([0, 1, 0, 1], [1, 0, 1, 0])


@pytest.fixture
def coloured_films(tmp_path: Path) -> list[Film]:
    """A red and a green disc on grey; what is red or green in a crop is the object."""
    films = []
    for name, colour in (("red", (0, 0, 255)), ("green", (0, 255, 0))):
        mask = disc((240, 400), 120, 200, 30)
        frame = np.where(mask[..., None] > 0, colour, (128, 128, 128)).astype(np.uint8)
        image, label = write(tmp_path / f"{name}.png", frame), write(tmp_path / f"{name}_mask.png", mask)
        films.append(Film(name, ((image, label),) * 8, ids=True))
    return films


def coloured(images: torch.Tensor) -> list[np.ndarray]:
    """Where (N, 3, H, W) is red, and where it is green."""
    red, green, _ = images.numpy().transpose(1, 0, 2, 3)
    return [red > 1.6 * green, green > 1.6 * red]


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def test_a_rival_is_pasted_and_masks_show_what_is_seen(coloured_films: list[Film]) -> None:
    clips = [
        film_clip(coloured_films[0], FrameStore(CPU, 0), SETTINGS, Draw(CPU, seed), rival=coloured_films[1])
        for seed in range(12)
    ]
    shown = [clip for clip in clips if clip is not None]
    assert len(shown) >= 6
    for clip in shown:
        assert clip.masks.shape == (2, 4, 96, 160)
        assert float(clip.masks.sum(0).max()) <= 1
    scores = [
        overlap(seen, mask.numpy() > 0.5)
        for clip in shown
        for seen, mask in zip(coloured(clip.images), clip.masks, strict=True)
    ]
    assert np.median(scores) > 0.8


def test_objects_leave_and_return(coloured_films: list[Film]) -> None:
    settings = dataclasses.replace(SETTINGS, absent=1.0)
    clips = [film_clip(coloured_films[0], FrameStore(CPU, 0), settings, Draw(CPU, seed)) for seed in range(12)]
    areas = [clip.masks[0].sum((1, 2)) for clip in clips if clip is not None]
    assert all(area[0] > 0 for area in areas)
    assert sum(bool((area == 0).any()) for area in areas) > len(areas) / 2
    assert any(bool((area[1:-1] == 0).any()) and area[-1] > 0 for area in areas)


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
    clip = film_clip(film, FrameStore(CPU, 0), SETTINGS, Draw(CPU, 0), augment=False)
    assert clip is not None
    state = TargetState.from_mask(mask.astype(bool), CONFIG.crop_size, CONFIG.search_factor)
    state.update(mask.astype(np.float32), (0, 0))
    window = place_window(size, state.pos, state.target_scale * np.float32(CONFIG.crop_size), CONFIG.crop_size, True)
    runtime = cut_mask(mask.astype(np.float32), window, CONFIG.crop_size) > 0.5
    ours = clip.masks[0, 2].numpy() > 0.5
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
