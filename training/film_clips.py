"""Mini-sequences from films, cut as the runtime cuts: about where the target was in the frame before (section 4.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..model.config import ModelConfig
from .appearance import film_look
from .draw import Draw
from .frame_store import FrameStore
from .material import Film, object_mask
from .motion import pixel_grid, rotation, sample
from .settings import TrainSettings


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
    film: Film, store: FrameStore, settings: TrainSettings, draw: Draw, augment: bool = True
) -> Clip | None:
    """A mini-sequence of one of the film's objects; None if the frames drawn show none.

    Args:
        film: with at least two frames; fewer than wanted are repeated back and forth.
        store: where its files are read.
        settings: crop size and search factor; number and distances of frames.
        draw: of frames, object, and changes.
        augment: flip, rotate, scale, shift and recolour; otherwise the frames as they are.
    """
    config = settings.model
    picked, before = choose_frames(len(film.frames), settings, draw)
    labels = [store.labels(film.frames[i][1]) for i in picked]
    present = torch.unique(labels[0]).tolist() if film.ids else [255]
    ids = [i for i in present if i]
    if not ids:
        return None
    label = ids[draw.index(len(ids))] if film.ids else None
    masks = [object_mask(m, label) for m in labels]
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
    for t, index in enumerate(picked):
        place = search_place(object_mask(store.labels(film.frames[before[t]][1]), label), config) or place
        if augment:
            shift = draw.normal(0.08 * place.scale * math.sqrt(height * width) / config.search_factor, 2).tolist()
            jitter = steady * math.exp(draw.normal(0.05, 1).item())
            place = Place(place.x + shift[0], place.y + shift[1], place.scale * jitter)
        image = store.image(film.frames[index][0]).float()
        cut = keep_inside(place, (image.shape[1], image.shape[2]), config)
        positions = (grid @ (axes.T * cut.scale) + grid.new_tensor((cut.x, cut.y)))[None]
        images.append(sample(image, positions, "border")[0])
        crops.append(sample(masks[t][None].float(), positions, "zeros")[0, 0] > 0.5)
    stacked = torch.stack(images)
    return Clip(film_look(stacked, draw) if augment else stacked, torch.stack(crops).float())


def choose_frames(length: int, settings: TrainSettings, draw: Draw) -> tuple[list[int], list[int]]:
    """Frames of a mini-sequence, and for each the one by whose mask its crop is cut.

    At run time that is the frame just before; where the film is scattered, as in the paper, the one drawn before.
    """
    frames = settings.frames
    scattered = draw.chance(settings.scattered)
    low, high = settings.strides
    stride = 1.0 if scattered else min(draw.log_uniform(low, high), (length - 1) / (frames - 1))
    span = min(settings.segment, length) if scattered else min(round(stride * (frames - 1)) + 1, length)
    start = draw.index(length - span + 1)
    if span < frames:
        there = list(range(span))
        cycle = there + there[-2:0:-1]
        picked = [cycle[i % len(cycle)] for i in range(frames)]
    elif scattered:
        picked = sorted(draw.indices(span, frames))
    else:
        picked = [round(i * (span - 1) / (frames - 1)) for i in range(frames)]
    if draw.chance(0.5):
        picked.reverse()
    before = [picked[0], *picked[:-1]]
    if not scattered:
        before = [b if draw.chance(0.25) else p - (p > b) + (p < b) for p, b in zip(picked, before, strict=True)]
    return [start + i for i in picked], [start + i for i in before]
