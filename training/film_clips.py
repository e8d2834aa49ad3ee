"""Mini-sequences from films, cut as the runtime cuts: about where the target was in the frame before (section 4.1)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.config import ModelConfig
from .appearance import film_look
from .draw import Draw
from .frame_store import FrameStore
from .material import Film
from .motion import pixel_grid, rotation, sample


class Clip(NamedTuple):
    """A mini-sequence of one object."""

    images: Tensor
    """(N, 3, H, W), RGB 0..255."""
    masks: Tensor
    """(N, H, W), 0 or 1."""


class Place(NamedTuple):
    """A crop in the frame."""

    x: float
    y: float
    scale: float
    """Pixels of the frame per pixel of the crop."""


def search_place(mask: Tensor, config: ModelConfig) -> Place | None:
    """Where the target's surroundings are, from its mask (H, W) in the frame before; None if it is empty.

    The side is the search factor times the target's size, which is four standard deviations per axis, and never more
    than what keeps one of the frame's axes filled.
    """
    rows, columns = (p.float() for p in torch.nonzero(mask, as_tuple=True))
    if not len(rows):
        return None
    size = [max(4 * p.std(correction=0).item(), 4.0) for p in (rows, columns)]
    height, width = config.crop_size
    scale = config.search_factor * math.sqrt(size[0] * size[1] / (height * width))
    return Place(columns.mean().item() + 0.5, rows.mean().item() + 0.5, scale)


def keep_inside(place: Place, frame: tuple[int, int], config: ModelConfig) -> Place:
    """Shrunk until it fits along one axis at least, and moved into the frame along each axis where it fits."""
    height, width = config.crop_size
    scale = min(place.scale, max(frame[0] / height, frame[1] / width))
    centre = []
    for value, length, side in ((place.x, frame[1], width * scale), (place.y, frame[0], height * scale)):
        centre.append(min(max(value, side / 2), length - side / 2) if side < length else length / 2)
    return Place(centre[0], centre[1], scale)


def film_clip(
    film: Film, store: FrameStore, config: ModelConfig, frames: int, segment: int, draw: Draw, augment: bool = True
) -> Clip | None:
    """A mini-sequence of one of the film's objects; None if the frames drawn show none.

    Args:
        film: with at least two frames; fewer than `frames` are repeated back and forth.
        store: where its files are read.
        config: crop size and search factor.
        frames: N_train.
        segment: N'_train.
        draw: of frames, object, and changes.
        augment: flip, rotate, scale, shift and recolour; otherwise the frames as they are.
    """
    chosen = _choose_frames(film, frames, segment, draw)
    labels = [store.labels(mask) for _, mask in chosen]
    present = torch.unique(labels[0]).tolist() if film.ids else [255]
    ids = [i for i in present if i]
    if not ids:
        return None
    label = ids[draw.index(len(ids))]
    masks = [m == label if film.ids else m > 127 for m in labels]
    place = search_place(masks[0], config)
    if place is None:
        return None
    height, width = config.crop_size
    device = masks[0].device
    angle = draw.normal(0.08 * augment, 1)
    mirror = torch.tensor([-1.0 if augment and draw.chance(0.5) else 1.0], device=device)
    one = torch.ones(1, device=device)
    axes = rotation(angle, one, one, mirror)[0]
    grid = pixel_grid((height, width), device) - torch.tensor((width / 2, height / 2), device=device)
    steady = draw.log_uniform(0.8, 1.25) if augment else 1.0
    images, crops = [], []
    for t, (image_file, _) in enumerate(chosen):
        place = search_place(masks[max(t - 1, 0)], config) or place
        if augment:
            shift = draw.normal(0.08 * place.scale * math.sqrt(height * width) / config.search_factor, 2).tolist()
            jitter = steady * math.exp(draw.normal(0.05, 1).item())
            place = Place(place.x + shift[0], place.y + shift[1], place.scale * jitter)
        image = store.image(image_file).float()
        cut = keep_inside(place, (image.shape[1], image.shape[2]), config)
        positions = (grid @ (axes.T * cut.scale) + grid.new_tensor((cut.x, cut.y)))[None]
        images.append(sample(image, positions, "border")[0])
        crops.append(sample(masks[t][None].float(), positions, "zeros")[0, 0] > 0.5)
    stacked = torch.stack(images)
    return Clip(film_look(stacked, draw) if augment else stacked, torch.stack(crops).float())


def _choose_frames(film: Film, frames: int, segment: int, draw: Draw) -> list[tuple[Path, Path]]:
    span = min(segment, len(film.frames))
    start = draw.index(len(film.frames) - span + 1)
    if span < frames:
        there = list(range(span))
        cycle = there + there[-2:0:-1]
        picked = [cycle[i % len(cycle)] for i in range(frames)]
    else:
        picked = sorted(draw.indices(span, frames))
    if draw.chance(0.5):
        picked.reverse()
    return [film.frames[start + i] for i in picked]
