"""Crops with one object each, as the runtime cuts them, from pictures and from films' frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.clicks.prompts import Box, Click, Window, box_of, prompt_planes, whole, window_about
from ...runtime.clicks.simulated import depth, next_click
from ..clips.frame_store import FrameStore
from ..draw import Draw
from ..material import Film, Material, object_mask

_BOTH = 0.4
"""How often, with other objects beside and no box, the last mask is of all of them."""
_COMPANY = 0.5
"""How often another picture's object is painted into a crop."""
_PARTED = 0.35
"""How often a picture is drawn from those whose objects are told apart, besides what chance gives them."""
LEAST_PIXELS = 60
"""Of an object in its picture."""
_BOX, _GIVEN = 0.35, 0.15
"""How often a crop begins with a box, and with somebody else's mask; the others begin with a click."""


@dataclass(slots=True)
class Sample:
    """A crop that is being clicked on.

    Attributes:
        image: (3, S, S) uint8 RGB.
        true: (S, S) float32, the object's share of every pixel.
        planes: (4, S, S) float32, the prompts.
        clicks: so far, in pixels of the crop.
        rounds: how often it may still be learnt from.
    """

    image: Tensor
    true: NDArray[np.float32]
    planes: NDArray[np.float32]
    clicks: list[Click]
    rounds: int

    def answer(self, probabilities: NDArray[np.float32], draw: Draw) -> None:
        """Take the network's mask (S, S) as the last one, and click on what is wrong with it."""
        self.rounds -= 1
        side = len(self.true)
        # At times the last mask is not told, so that clicks alone must do.
        self.planes[2] = 0 if draw.chance(0.1) else probabilities
        click = drawn_click(self.true > 0.5, probabilities > 0.5, self.clicks, draw)
        if click is None:
            self.rounds = 0
            return
        self.clicks.append(click)
        # The box's plane stays; disks are painted anew.
        self.planes[:2] = prompt_planes(whole((side, side)), side, self.clicks, None, None)[:2]


class ClickSamples:
    """Draws crops.

    Args:
        material: what there is.
        store: of its files.
        side: S, of the crops.
        films: share that comes from films.
        rounds: most rounds of a sample.
    """

    def __init__(self, material: Material, store: FrameStore, side: int, films: float, rounds: int) -> None:
        self.material = material
        self.store = store
        self.side = side
        self.films = films
        self.rounds = rounds
        self._parted = tuple(picture for picture in material.pictures if picture.label is not None)
        names = dict.fromkeys(film.name for film in material.films)
        self._films = [[film for film in material.films if film.name == name] for name in names]

    def sample(self, draw: Draw) -> Sample:
        """A crop and its first prompt."""
        while True:
            image, mask, others = self._choose(draw)
            box = box_of(mask)
            if box is not None and np.count_nonzero(mask) >= LEAST_PIXELS:
                break
        window = drawn_window(box, mask.shape, draw)
        crop = window.cut(image, self.side)
        true = window.cut_mask(mask.astype(np.float32), self.side)
        if not (true > 0.5).any():
            return self.sample(draw)
        beside = window.cut_mask(others.astype(np.float32), self.side)
        if draw.chance(0.5):
            crop, true, beside = crop[:, ::-1], np.ascontiguousarray(true[:, ::-1]), beside[:, ::-1]
        if self.material.pictures and draw.chance(_COMPANY):
            crop, true, beside = self._with_company(crop, true, beside, draw)
        coloured = _colour(torch.from_numpy(crop.transpose(2, 0, 1).copy()).float(), draw)
        planes, clicks = first_prompt(true, beside > 0.5, draw)
        return Sample(coloured.byte(), true, planes, clicks, 1 + draw.index(self.rounds))

    def _choose(self, draw: Draw) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        """A picture (H, W, 3), its object and its other objects (H, W)."""
        pictures = self.material.pictures
        if self._films and (not pictures or draw.chance(self.films)):
            parts = self._films[draw.index(len(self._films))]
            image, mask = self.frame(parts[draw.index(len(parts))], draw)
            return image, mask, np.zeros_like(mask)
        return self._picture(draw)

    def _with_company(
        self, crop: NDArray[np.uint8], true: NDArray[np.float32], beside: NDArray[np.float32], draw: Draw
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
        """The crop with another picture's object beside, over or behind its own, so that objects that touch are told
        apart; half of the time the newcomer is the object. Its object and its other objects are (S, S).
        """
        image, mask, _ = self._picture(draw)
        box = box_of(mask)
        if box is None:
            return crop, true, beside
        left, top, right, bottom = (int(value) for value in box)
        scale = draw.uniform(0.35, 0.9) * self.side / max(right - left, bottom - top)
        size = max(round(scale * (right - left)), 8), max(round(scale * (bottom - top)), 8)
        newcomer = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
        cover = cv2.resize(mask[top:bottom, left:right].astype(np.float32), size, interpolation=cv2.INTER_AREA)
        # Mostly where it touches the object.
        place = box_of(true > 0.5) if draw.chance(0.7) else (0.0, 0.0, float(self.side), float(self.side))
        assert place is not None
        x, y = (
            round(place[axis] + draw.uniform(-0.2, 1.2) * (place[axis + 2] - place[axis]) - size[axis] / 2)
            for axis in (0, 1)
        )
        layer, alpha = np.zeros_like(crop), np.zeros_like(true)
        rows, columns = _overlap(y, size[1], self.side), _overlap(x, size[0], self.side)
        layer[rows[0], columns[0]] = newcomer[rows[1], columns[1]]
        alpha[rows[0], columns[0]] = cover[rows[1], columns[1]]
        if draw.chance(0.4):
            alpha *= 1 - true
        painted = (crop * (1 - alpha[..., None]) + layer * alpha[..., None]).astype(np.uint8)
        rest, behind = true * (1 - alpha), beside * (1 - alpha)
        pairs = ((alpha, rest), (rest, alpha)) if draw.chance(0.5) else ((rest, alpha), (alpha, rest))
        for chosen, other in pairs:
            if np.count_nonzero(chosen > 0.5) >= 0.01 * true.size:
                return painted, chosen, np.maximum(other, behind)
        return crop, true, beside

    def _picture(self, draw: Draw) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.bool_]]:
        pictures = self._parted if self._parted and draw.chance(_PARTED) else self.material.pictures
        picture = pictures[draw.index(len(pictures))]
        labels = self.store.labels(picture.mask)
        mask = object_mask(labels, picture.label).numpy()
        others = (labels > 0).numpy() & ~mask if picture.label is not None else np.zeros_like(mask)
        return self.store.image(picture.image).permute(1, 2, 0).numpy(), mask, others

    def frame(self, film: Film, draw: Draw) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """One of a film's frames (H, W, 3) and one of its objects (H, W), which may be empty."""
        image, mask = film.frames[draw.index(len(film.frames))]
        labels = self.store.labels(mask)
        ids = [int(label) for label in labels.unique() if label] if film.ids else []
        found = object_mask(labels, ids[draw.index(len(ids))] if ids else None)
        return self.store.image(image).permute(1, 2, 0).numpy(), found.numpy()


def _overlap(start: int, length: int, side: int) -> tuple[slice, slice]:
    """Where `length` pixels from `start` on lie within `side` pixels, and which of them."""
    low, high = max(start, 0), max(min(start + length, side), max(start, 0))
    return slice(low, high), slice(low - start, high - start)


def drawn_window(box: Box, shape: tuple[int, ...], draw: Draw) -> Window:
    """Mostly zoomed on the object, more or less well; sometimes wide, sometimes the whole picture."""
    size = (shape[0], shape[1])
    if draw.chance(0.12):
        return whole(size)
    margin = draw.log_uniform(1.1, 2.0) if draw.chance(0.8) else draw.log_uniform(2.0, 4.0)
    width, height = box[2] - box[0], box[3] - box[1]
    dx, dy = draw.uniform(-0.12, 0.12) * width, draw.uniform(-0.12, 0.12) * height
    wide, high = draw.uniform(-0.15, 0.15) * width, draw.uniform(-0.15, 0.15) * height
    return window_about((box[0] + dx - wide, box[1] + dy - high, box[2] + dx + wide, box[3] + dy + high), size, margin)


def first_prompt(
    true: NDArray[np.float32], beside: NDArray[np.bool_], draw: Draw
) -> tuple[NDArray[np.float32], list[Click]]:
    """A box; or a click; or a mask that is partly wrong and a click that mends it; or one that took in the objects
    beside, with the click that it came from and one that takes them out: planes (4, S, S), clicks.
    """
    side, region = len(true), true > 0.5
    frame, nothing = whole((side, side)), np.zeros((side, side), np.float32)
    choice = draw.uniform(0, 1)
    if choice < _BOX:
        box = box_of(region)
        assert box is not None
        return prompt_planes(frame, side, (), _loose(box, draw), None), []
    if np.count_nonzero(beside) > 0.01 * true.size and draw.chance(_BOTH):
        previous = (region | beside).astype(np.float32)
        clicks = [drawn_click(region, nothing > 0.5, (), draw)]
    else:
        previous = _spoilt(region, draw) if choice < _BOX + _GIVEN else nothing
        clicks = []
    clicks.append(drawn_click(region, previous > 0.5, (), draw))
    made = [click for click in clicks if click is not None]
    return prompt_planes(frame, side, made, None, previous), made


def drawn_click(true: NDArray[np.bool_], found: NDArray[np.bool_], clicks: Sequence[Click], draw: Draw) -> Click | None:
    """The middle of the largest error, or half of the time a place near it."""
    middle = next_click(true, found, clicks)
    if middle is None or draw.chance(0.5):
        return middle
    error = depth(true & ~found if middle.positive else found & ~true)
    rows, columns = np.nonzero(error >= draw.uniform(0.3, 1.0) * error.max())
    place = draw.index(len(rows))
    return Click(float(columns[place]), float(rows[place]), middle.positive)


def _loose(box: Box, draw: Draw) -> Box:
    """A box as a hand draws it."""
    width, height = box[2] - box[0], box[3] - box[1]
    off = [draw.uniform(-0.04, 0.08) for _ in range(4)]
    return box[0] - off[0] * width, box[1] - off[1] * height, box[2] + off[2] * width, box[3] + off[3] * height


def _spoilt(region: NDArray[np.bool_], draw: Draw) -> NDArray[np.float32]:
    """A mask moved, with a part cut off or a piece added."""
    side = len(region)
    reach = max(int(0.06 * side), 1)
    shifted = np.roll(region, (draw.index(2 * reach) - reach, draw.index(2 * reach) - reach), (0, 1))
    spoilt = shifted if draw.chance(0.5) else region.copy()
    rows, columns = np.nonzero(region)
    place = draw.index(len(rows))
    y, x = np.ogrid[:side, :side]
    if draw.chance(0.6):
        angle = draw.uniform(0, 2 * math.pi)
        spoilt = spoilt & ((y - rows[place]) * math.sin(angle) + (x - columns[place]) * math.cos(angle) < 0)
    if draw.chance(0.5):
        radius = draw.uniform(0.03, 0.2) * side
        spoilt = spoilt | ((y - draw.index(side)) ** 2 + (x - draw.index(side)) ** 2 < radius**2)
    return spoilt.astype(np.float32)


def _colour(image: Tensor, draw: Draw) -> Tensor:
    """(3, S, S), 0..255: other light, sometimes grey, sometimes grainy."""
    image = image * draw.uniforms(0.88, 1.12, 3, 1, 1) * draw.uniform(0.75, 1.25)
    mean = image.mean()
    image = (image - mean) * draw.uniform(0.75, 1.25) + mean
    if draw.chance(0.05):
        image = image.mean(0, keepdim=True).expand(3, -1, -1)
    if draw.chance(0.3):
        image = image + draw.noise(draw.uniform(0, 8), 1, *image.shape[1:])
    return image.clamp(0, 255)
