"""Mini-sequences made from single pictures: an object and a background that move apart, with company.

Over a background (another photo, or the object's own) come further objects, look-alikes, the object, and at times
something that passes in front of it. Each moves affinely and bends along a thin-plate spline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..draw import Draw
from ..material import Picture, object_mask
from .appearance import film_look
from .film_clips import Clip
from .frame_store import FrameStore
from .motion import ThinPlate, pixel_grid, rotation, sample

_MIN_PIXELS = 150
"""Of the object in the first frame."""
_MAX_SHARE = 0.7


class PhotoClips:
    """Makes clips of one size from pictures."""

    def __init__(self, pictures: Sequence[Picture], store: FrameStore, size: tuple[int, int], frames: int) -> None:
        self.pictures = pictures
        self.store = store
        self.size = size
        self.frames = frames
        self.grid = pixel_grid(size, store.device)
        self.spline = ThinPlate(size, (3, 4), store.device)

    def clip(self, draw: Draw, objects: int = 1) -> Clip | None:
        """A clip of so many objects, 1 or 2; None if one of those drawn is too small or too large to be seen."""
        height, width = self.size
        side = math.sqrt(height * width) * draw.log_uniform(0.12, 0.6)
        target = self._choose(draw)
        centre = torch.tensor((width / 2, height / 2), device=self.store.device) + draw.normal(0.15 * side, 2)
        layer = MovingLayer(self, target, side, centre, draw)
        company: list[MovingLayer] = []
        if draw.chance(0.45):
            company += [self._anywhere(self._choose(draw), side, draw) for _ in range(1 + draw.index(2))]
        if draw.chance(0.3) or (objects > 1 and not company):
            company.append(self._anywhere(target, side, draw))
        canvas = layer.surroundings() if draw.chance(0.35) else self._background(self._choose(draw), draw)
        masks: list[Tensor] = []
        painters = [*company, layer]
        if draw.chance(0.25):
            painters.append(self._occluder(layer, side, draw))
        for painter in painters:
            canvas, cover = painter.over(canvas)
            masks = [mask & (cover <= 0.5) for mask in masks] + [cover > 0.5]
        # Whoever is painted just before the target is its rival.
        first = len(company)
        chosen = torch.stack(masks[first - objects + 1 : first + 1][::-1])
        seen = chosen[:, 0].sum((1, 2))
        if not bool(((seen >= _MIN_PIXELS) & (seen <= _MAX_SHARE * height * width)).all()):
            return None
        return Clip(film_look(canvas, draw), chosen.float())

    def _choose(self, draw: Draw) -> Picture:
        return self.pictures[draw.index(len(self.pictures))]

    def _anywhere(self, picture: Picture, side: float, draw: Draw) -> MovingLayer:
        place = draw.uniforms(0.05, 0.95, 2) * torch.tensor(self.size[::-1], device=self.store.device)
        return MovingLayer(self, picture, side * draw.uniform(0.5, 1.3), place, draw)

    def _occluder(self, target: MovingLayer, side: float, draw: Draw) -> MovingLayer:
        place = target.places[0] + draw.normal(side, 2)
        occluder = MovingLayer(self, self._choose(draw), side * draw.uniform(0.3, 0.8), place, draw)
        speed = (target.places[0] - place) / max(self.frames - 1, 1) + draw.normal(4, 2)
        occluder.places = place + speed * torch.arange(self.frames, device=place.device)[:, None]
        return occluder

    def _background(self, picture: Picture, draw: Draw) -> Tensor:
        """A photo that fills the crop and drifts; (N, 3, H, W)."""
        image = self.store.image(picture.image).float()
        height, width = self.size
        time = torch.arange(self.frames, device=image.device, dtype=torch.float32)
        cover = max(height / image.shape[1], width / image.shape[2]) * draw.uniform(1.05, 1.8)
        scale = cover * torch.exp(draw.normal(0.02, 1) * time)
        angle = draw.normal(0.05, 1) + draw.normal(0.02, 1) * time
        mirror = torch.full_like(time, -1.0 if draw.chance(0.5) else 1.0)
        axes = torch.linalg.inv(rotation(angle, scale, torch.ones_like(time), mirror))
        drift = draw.normal(6, 2) * time[:, None]
        origin = self.grid.new_tensor((width / 2, height / 2)) + drift
        positions = torch.einsum("nij,nhwj->nhwi", axes, self.grid - origin[:, None, None])
        return sample(image, positions + self.grid.new_tensor((image.shape[2] / 2, image.shape[1] / 2)), "reflection")


class MovingLayer:
    """An object cut out of a picture, on its way through N frames.

    Attributes:
        places: its centre in the crop, (N, 2) as (x, y).
    """

    def __init__(self, clips: PhotoClips, picture: Picture, side: float, place: Tensor, draw: Draw) -> None:
        self.grid = clips.grid
        mask = object_mask(clips.store.labels(picture.mask), picture.label).float()
        self.planes = torch.cat((clips.store.image(picture.image).float(), mask[None]))
        rows, columns = torch.nonzero(mask, as_tuple=True)
        top, bottom, left, right = (float(v) for v in (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1))
        self.centre = place.new_tensor(((left + right) / 2, (top + bottom) / 2))
        frames, device = clips.frames, place.device
        time = torch.arange(frames, device=device, dtype=torch.float32)
        speed = 3.0 if draw.chance(0.3) else 1.0
        velocity = draw.normal(0.1 * side * speed, 2) * 0.85 ** time[:, None] + draw.normal(0.03 * side, frames, 2)
        self.places = place + torch.cat((torch.zeros(1, 2, device=device), velocity[1:].cumsum(0)))
        scale = side / math.sqrt((bottom - top) * (right - left))
        scales = scale * torch.exp(draw.normal(0.05, 1).clamp(-0.15, 0.15) * time)
        angles = draw.normal(0.15, 1) + draw.normal(0.08, 1) * time
        aspects = torch.exp(draw.normal(0.1, 1) + draw.normal(0.03, frames))
        mirror = torch.full_like(time, -1.0 if draw.chance(0.5) else 1.0)
        self.axes = torch.linalg.inv(rotation(angles, scales, aspects, mirror))
        bend = draw.normal(0.03 * side, 1, clips.spline.count, 2)
        bend = bend + draw.normal(0.03 * side, 1, clips.spline.count, 2) * time[:, None, None]
        self.bend = clips.spline(bend)
        self.gain = draw.uniforms(0.8, 1.2, 3, 1, 1)

    def _positions(self, grid: Tensor) -> Tensor:
        """Where in the picture the pixels at `grid` come from, (N, H, W, 2)."""
        return torch.einsum("nij,nhwj->nhwi", self.axes, grid - self.places[:, None, None]) + self.centre

    def surroundings(self) -> Tensor:
        """The object's own photo, moving with it but not bent; (N, 3, H, W)."""
        return sample(self.planes[:3], self._positions(self.grid), "reflection")

    def over(self, canvas: Tensor) -> tuple[Tensor, Tensor]:
        """Painted over (N, 3, H, W); also its cover (N, H, W), 0..1."""
        painted = sample(self.planes, self._positions(self.grid + self.bend), "zeros")
        cover = painted[:, 3:]
        return canvas * (1 - cover) + painted[:, :3] * self.gain * cover, cover[:, 0]
