"""What there is to train on: single pictures with a mask, and films with label maps.

Four layouts are known, and a folder may hold several of them:

- DAVIS: `JPEGImages/480p/NAME`, `Annotations/480p/NAME`, `ImageSets/2017/train.txt` (or 2016);
- YouTube-VOS: `JPEGImages/NAME`, `Annotations/NAME`, `meta.json` with `videos`;
- pictures: `images/*.jpg` with `masks/*.png` (0 and 255) or `instances/*.png` (an id per object), and perhaps a
  `meta.json` that gives `decisive`, the mean of |2p - 1|, of masks made by a network;
- films with masks made by a network: `images/NAME/*.jpg`, `masks/NAME/*.png`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DatasetError
from .clips.frame_store import FrameStore

DECISIVE = 0.72
"""Masks whose network was less sure than this are left out."""
AREA = (0.004, 0.75)
"""Smallest and largest share of the picture that an object may take."""
GROWTH = 1.66
"""Most by which an object's area may change from one frame of a film to the next, up or down."""
SHIFT = 1.0
"""Most by which its centre may move, in square roots of its area."""

_IMAGES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with one object.

    Attributes:
        image, mask: files.
        label: the object's value in the mask; None where everything above 127 is the object.
    """

    image: Path
    mask: Path
    label: int | None


@dataclass(frozen=True, slots=True)
class Film:
    """Consecutive frames with masks.

    Attributes:
        name: of the film; parts of one film share it.
        frames: (image, mask) files in order.
        ids: whether masks hold ids; otherwise everything above 127 is the object.
    """

    name: str
    frames: tuple[tuple[Path, Path], ...]
    ids: bool


@dataclass(frozen=True, slots=True)
class Material:
    """All that was found and is fit to be trained on; `refused` counts what is not."""

    pictures: tuple[Picture, ...]
    films: tuple[Film, ...]
    refused: int

    def split(self, every: int, names: Sequence[str] = ()) -> tuple[Material, tuple[Film, ...]]:
        """Keep films aside, whole: (to train on, to validate on).

        Args:
            every: every how many films one is kept; 0 for none.
            names: of the films to keep, instead.

        Raises:
            DatasetError: there is no film of a name.
        """
        known = sorted({film.name for film in self.films})
        missing = sorted(set(names) - set(known))
        if missing:
            raise DatasetError(f"no film is called {', '.join(missing)}: expected those to validate on in the data")
        held = list(names) or (known[::every] if every else [])
        rest = tuple(film for film in self.films if film.name not in held)
        return Material(self.pictures, rest, self.refused), tuple(f for f in self.films if f.name in held)


def find_material(folders: Iterable[Path], store: FrameStore) -> Material:
    """Everything in these folders and in the folders directly within them.

    Raises:
        DatasetError: a folder is missing or holds none of the known layouts, or its parts do not fit.
    """
    pictures: list[Picture] = []
    films: list[Film] = []
    refused = 0
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"{folder} is no folder: expected training data")
        found = False
        for place in (folder, *sorted(child for child in folder.iterdir() if child.is_dir())):
            for read in (_read_davis, _read_youtube, _read_pictures, _read_films):
                material = read(place, store)
                if material is not None:
                    found = True
                    pictures += material.pictures
                    films += material.films
                    refused += material.refused
        if not found:
            raise DatasetError(
                f"{folder} holds no training data: expected a DAVIS or YouTube-VOS folder, or images/ with masks/ or "
                "instances/"
            )
    if not pictures and not films:
        raise DatasetError(f"nothing in the data is fit to be trained on: all {refused} items were refused")
    return Material(tuple(pictures), tuple(films), refused)


def object_mask(labels: Tensor, label: int | None) -> Tensor:
    """(H, W) uint8 -> bool."""
    return labels > 127 if label is None else labels == label


def _read_davis(folder: Path, store: FrameStore) -> Material | None:
    images, masks = folder / "JPEGImages" / "480p", folder / "Annotations" / "480p"
    if not (images.is_dir() and masks.is_dir()):
        return None
    for lists in ("2017", "2016", "480p"):
        file = folder / "ImageSets" / lists / "train.txt"
        if file.is_file():
            lines = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            names = dict.fromkeys(Path(word).parent.name if "/" in word else word for word in lines)
            break
    else:
        raise DatasetError(f"{folder} has no ImageSets/2017/train.txt: without it, validation would be trained on")
    return Material((), tuple(_film(name, images / name, masks / name, ids=True) for name in names), 0)


def _read_youtube(folder: Path, store: FrameStore) -> Material | None:
    images, masks = folder / "JPEGImages", folder / "Annotations"
    if not (images.is_dir() and masks.is_dir() and (folder / "meta.json").is_file()):
        return None
    videos = _json(folder / "meta.json").get("videos")
    if not isinstance(videos, dict):
        raise DatasetError(f"{folder / 'meta.json'} lists no videos: expected YouTube-VOS's")
    names = sorted(str(name) for name in videos)
    for name in names:
        if Path(name).name != name:
            raise DatasetError(f"{folder / 'meta.json'} lists {name!r}: expected a folder's name")
    return Material((), tuple(_film(name, images / name, masks / name, ids=True) for name in names), 0)


def _read_pictures(folder: Path, store: FrameStore) -> Material | None:
    instances = (folder / "instances").is_dir()
    masks = folder / ("instances" if instances else "masks")
    images = _files(folder / "images") if masks.is_dir() else {}
    if not images:
        return None
    meta = _json(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    pictures = []
    refused = 0
    for stem, image in images.items():
        mask = masks / f"{stem}.png"
        entry = meta.get(stem, {})
        if not mask.is_file() or float(entry.get("decisive", 1.0)) < DECISIVE:
            refused += 1
            continue
        labels = store.labels(mask)
        if labels.shape != store.image(image).shape[1:]:
            raise DatasetError(f"{mask} is {tuple(labels.shape)}: expected the size of {image}")
        counts = torch.bincount(labels.flatten().int(), minlength=256).cpu() / labels.numel()
        areas = dict(enumerate(counts.tolist())) if instances else {None: float(counts[128:].sum())}
        fit = [label for label, area in areas.items() if label != 0 and AREA[0] < area < AREA[1]]
        pictures += [Picture(image, mask, label) for label in fit]
        refused += not fit
    return Material(tuple(pictures), (), refused)


def _read_films(folder: Path, store: FrameStore) -> Material | None:
    names = [child.name for child in sorted((folder / "images").glob("*")) if child.is_dir()]
    if not names or not (folder / "masks").is_dir():
        return None
    films = []
    refused = 0
    for name in names:
        film = _film(name, folder / "images" / name, folder / "masks" / name, ids=False)
        parts = steady_parts([store.labels(mask) > 127 for _, mask in film.frames])
        kept = [part for part in parts if len(part) >= 4]
        refused += len(film.frames) - sum(len(part) for part in kept)
        films += [Film(name, film.frames[part.start : part.stop], ids=False) for part in kept]
    return Material((), tuple(films), refused)


def steady_parts(masks: list[Tensor]) -> list[range]:
    """Where masks that a network made frame by frame follow one object: neither area nor centre jumps."""
    parts: list[range] = []
    previous: tuple[float, float, float] | None = None
    for index, mask in enumerate(masks):
        pixels = int(mask.sum())
        if not AREA[0] < pixels / mask.numel() < AREA[1]:
            previous = None
            continue
        rows, columns = (p.float().mean().item() for p in torch.nonzero(mask, as_tuple=True))
        steady = (
            previous is not None
            and 1 / GROWTH < pixels / previous[0] < GROWTH
            and (rows - previous[1]) ** 2 + (columns - previous[2]) ** 2 < SHIFT**2 * pixels
        )
        if steady:
            parts[-1] = range(parts[-1].start, index + 1)
        else:
            parts.append(range(index, index + 1))
        previous = (pixels, rows, columns)
    return parts


def _film(name: str, images: Path, masks: Path, ids: bool) -> Film:
    found, labels = _files(images), _files(masks)
    frames = tuple((file, labels[stem]) for stem, file in found.items() if stem in labels)
    if len(frames) < 2:
        raise DatasetError(f"{name}: {len(frames)} frames have both image and mask in {images} and {masks}")
    return Film(name, frames, ids)


def _files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in _IMAGES}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): expected JSON") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{path} holds no JSON object")
    return content
