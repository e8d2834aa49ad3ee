"""Mini-sequences from films, cut as the runtime cuts: about where the target was in the frame before (section 4.1)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...model.config import ModelConfig
from ..draw import Draw
from ..material import Film, object_mask
from ..settings import TrainSettings
from .appearance import film_look
from .frame_store import FrameStore
from .motion import pixel_grid, rotation, sample

_MIN_PIXELS = 20
"""Of every object in the first frame."""
_STEADY = (0.75, 1.35)
"""Factors of the crop's side throughout a mini-sequence."""
_JITTER = 0.06
"""Deviation of the logarithm of the factor that comes to it at each frame."""
_TRIES = 12
"""Places among which one without the object is looked for."""


class Clip(NamedTuple):
    """A mini-sequence of O objects."""

    images: Tensor
    """(N, 3, H, W), RGB 0..255."""
    masks: Tensor
    """(O, N, H, W), 0 or 1."""


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


class Cut(NamedTuple):
    """An object of a film, cut out frame by frame."""

    images: Tensor
    """(N, 3, H, W), RGB 0..255."""
    cover: Tensor
    """(N, H, W), 0 to 1, of the object."""


def film_clip(
    film: Film,
    store: FrameStore,
    settings: TrainSettings,
    draw: Draw,
    augment: bool = True,
    rival: Film | None = None,
) -> Clip | None:
    """A mini-sequence of one of the film's objects; None if the frames drawn show none.

    Args:
        film: with at least two frames; fewer than wanted are repeated back and forth.
        store: where its files are read.
        settings: crop size and search factor; number and distances of frames.
        draw: of frames, object, and changes.
        augment: flip, rotate, scale, shift and recolour; otherwise the frames as they are.
        rival: whose object is pasted in as the second; perhaps this film itself, whose object then meets its like.
    """
    frames = settings.frames
    away = _absence(frames, draw) if augment and draw.chance(settings.absent) else range(0)
    target = _cut(film, store, settings, draw, augment, away, None)
    if target is None:
        return None
    images, masks = target.images, (target.cover > 0.5)[None]
    if rival is not None:
        height, width = settings.model.crop_size
        side = math.sqrt(height * width) / settings.model.search_factor
        start = draw.normal(1.2 * side, 2) * draw.uniforms(0.7, 1.5, 2)
        path = start + draw.normal(0.3 * side, 2) * torch.arange(frames, device=store.device)[:, None]
        pasted = _cut(rival, store, settings, draw, augment, range(0), path)
        if pasted is None:
            return None
        in_front = draw.chance(0.5)
        cover = pasted.cover if in_front else pasted.cover * (1 - target.cover)
        images = images * (1 - cover[:, None]) + pasted.images * cover[:, None]
        second = cover > 0.5
        masks = torch.stack((masks[0] & ~second, second))
    if bool((masks[:, 0].sum((1, 2)) < _MIN_PIXELS).any()):
        return None
    return Clip(film_look(images, draw) if augment else images, masks.float())


def _cut(
    film: Film,
    store: FrameStore,
    settings: TrainSettings,
    draw: Draw,
    augment: bool,
    away: range,
    path: Tensor | None,
) -> Cut | None:
    """One of the film's objects, each crop by its place in the frame before; None if the first frame shows none.

    Args:
        film, store, settings, draw, augment: see `film_clip`.
        away: frames whose crops lie elsewhere, where the object is not.
        path: by how much it is moved in the crop at each frame, (N, 2) as (x, y).
    """
    config = settings.model
    picked, before = choose_frames(len(film.frames), settings, draw)
    first = store.labels(film.frames[picked[0]][1])
    ids = [i for i in torch.unique(first).tolist() if i] if film.ids else [None]
    if not ids:
        return None
    label = ids[draw.index(len(ids))]
    place = search_place(object_mask(first, label), config)
    if place is None:
        return None
    height, width = config.crop_size
    angle = draw.normal(0.08 * augment, 1)
    mirror = torch.tensor([-1.0 if augment and draw.chance(0.5) else 1.0], device=store.device)
    one = torch.ones(1, device=store.device)
    axes = rotation(angle, one, one, mirror)[0]
    grid = pixel_grid((height, width), store.device) - torch.tensor((width / 2, height / 2), device=store.device)
    steady = draw.log_uniform(*_STEADY) if augment else 1.0
    images, covers = [], []
    for t, (index, earlier) in enumerate(zip(picked, before, strict=True)):
        place = search_place(object_mask(store.labels(film.frames[earlier][1]), label), config) or place
        image = store.image(film.frames[index][0])
        mask = object_mask(store.labels(film.frames[index][1]), label)
        cut = place
        if augment:
            shift = draw.normal(0.08 * place.scale * math.sqrt(height * width) / config.search_factor, 2).tolist()
            jitter = steady * math.exp(draw.normal(_JITTER, 1).item())
            cut = Place(place.x + shift[0], place.y + shift[1], place.scale * jitter)
        cut = keep_inside(cut, (image.shape[1], image.shape[2]), config)
        if t in away:
            cut = _elsewhere(mask, cut, config, draw)
        moved = grid if path is None else grid - path[t]
        positions = (moved @ (axes.T * cut.scale) + grid.new_tensor((cut.x, cut.y)))[None]
        images.append(sample(image.float(), positions, "border")[0])
        covers.append(sample(mask[None].float(), positions, "zeros")[0, 0])
    return Cut(torch.stack(images), torch.stack(covers))


def _absence(frames: int, draw: Draw) -> range:
    """Consecutive frames after the first."""
    start = 1 + draw.index(frames - 1)
    return range(start, start + 1 + draw.index(frames - start))


def _elsewhere(mask: Tensor, place: Place, config: ModelConfig, draw: Draw) -> Place:
    """Of some places in the frame, that with least of the object."""
    height, width = mask.shape
    places = []
    for _ in range(_TRIES):
        x, y = draw.uniform(0, width), draw.uniform(0, height)
        places.append(keep_inside(Place(x, y, place.scale * draw.uniform(0.25, 0.8)), (height, width), config))
    return min(places, key=lambda p: _seen(mask, p, config))


def _seen(mask: Tensor, place: Place, config: ModelConfig) -> int:
    """Pixels of a mask within a crop that is not turned."""
    half = (0.5 * place.scale * config.crop_size[0], 0.5 * place.scale * config.crop_size[1])
    rows = slice(max(int(place.y - half[0]), 0), max(int(place.y + half[0]) + 1, 0))
    columns = slice(max(int(place.x - half[1]), 0), max(int(place.x + half[1]) + 1, 0))
    return int(mask[rows, columns].sum())


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
