"""Label maps as files: reading and checking what the user gives, writing palette PNGs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import MaskError, OutputError
from .sources import Source, natural_key

MAX_OBJECTS = 255
RAMP_SHARE = 0.8
"""Share of a value's pixels that lie strictly between their neighbours where the value comes from smoothing."""
MIN_SPECKLED_IDS = 8
"""Ids that are nowhere three pixels wide, from which on they are taken for noise."""


def distinct_colours() -> NDArray[np.uint8]:
    """Colours (256, 3) of the ids in PASCAL VOC: bits of the id dealt to red, green, blue in turn."""
    ids = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (ids >> (3 * place + channel)) & 1
            colours[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return colours


def davis_palette() -> NDArray[np.uint8]:
    """Palette (256, 3) of the DAVIS annotations: PASCAL VOC's first 22 colours, with 191 for 192, then grey."""
    palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    palette[:22] = np.where(distinct_colours()[:22] == 192, 191, distinct_colours()[:22])
    return palette


_PALETTE = davis_palette().tobytes()


def write_label_map(path: Path, labels: NDArray[np.uint8]) -> None:
    """Write a label map (H, W) as a PNG with the DAVIS palette; the file appears whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    image = Image.fromarray(labels)
    image.putpalette(_PALETTE)
    # A name of its own length: that of the frame may be as long as the file system allows.
    part = path.with_name(f".{os.getpid()}.part")
    try:
        image.save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None


def read_label_map(path: Path) -> NDArray[np.uint8]:
    """Read a mask as a label map (H, W): 0 for the background, ids from 1 to 255.

    The ids of a palette PNG and the values of a grey PNG are kept; in a grey PNG of black and white only, white is 1.

    Raises:
        MaskError: not a PNG; colours without a palette; smoothed edges; ids that do not fit 8 bits.
    """
    try:
        with Image.open(path) as image:
            if image.format != "PNG":
                raise MaskError(f"{path} is a {image.format} image: expected a PNG, which keeps ids exactly")
            mode = image.mode
            values = _values(image, path)
    except FileNotFoundError:
        raise MaskError(f"{path} does not exist: expected a mask, a PNG") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError(f"{path} cannot be read as a PNG: {error}") from None
    ids: list[int] = np.unique(values).tolist()
    if mode != "P" and len(ids) <= 2 and ids[-1] == np.iinfo(values.dtype).max and ids[0] in (0, ids[-1]):
        return (values > 0).astype(np.uint8)
    objects = [i for i in ids if i]
    if len(objects) > MAX_OBJECTS:
        raise MaskError(
            f"{path} holds {len(objects)} objects: expected at most {MAX_OBJECTS}; split them over several runs"
        )
    if ids[-1] > 255:
        raise MaskError(f"{path} holds ids up to {ids[-1]}: expected 1 to 255; number the objects anew")
    labels = values.astype(np.uint8)
    _refuse_smoothed(labels, objects, path, ordered=mode != "P")
    return labels


def _values(image: Image.Image, path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """One value per pixel, uint8 or uint16."""
    if image.mode == "1":
        return np.array(image.convert("L"))
    if image.mode in ("P", "L"):
        return np.array(image)
    if image.mode.startswith("I"):
        return np.array(image).astype(np.uint16)
    channels = np.array(image.convert("RGBA"))
    colours, alpha = channels[..., :3], channels[..., 3]
    if (colours != colours[..., :1]).any():
        count = len(np.unique(colours.reshape(-1, 3), axis=0))
        raise MaskError(
            f"{path} is an RGB image of {count} colours with no palette, so no colour says which object it is: save it "
            "as an indexed (palette) PNG, or as a grey PNG with 0 for the background and 1, 2, ... for the objects"
        )
    return np.where(alpha > 0, colours[..., 0], 0).astype(np.uint8)


def _refuse_smoothed(labels: NDArray[np.uint8], objects: list[int], path: Path, *, ordered: bool) -> None:
    """Refuse label maps whose ids are mostly intermediate values along edges.

    Args:
        ordered: whether neighbouring values mean neighbouring shades, as in grey.
    """
    kernel = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(labels, kernel), cv2.dilate(labels, kernel)
    pixels = np.bincount(labels.ravel(), minlength=256)
    suspect = 0
    if ordered:
        between = np.bincount(labels[(low < labels) & (labels < high)], minlength=256)
        suspect = sum(between[i] >= RAMP_SHARE * pixels[i] for i in objects)
    inside = np.bincount(labels[low == high], minlength=256)
    speckled = sum(not inside[i] for i in objects)
    if 2 * suspect >= max(len(objects), 1) or (speckled >= MIN_SPECKLED_IDS and 2 * speckled > len(objects)):
        raise MaskError(
            f"{path} holds {len(objects)} ids, {max(suspect, speckled)} of them only along edges: it is anti-aliased "
            "or was resized smoothly; export it with hard edges, resize with nearest neighbour, or threshold it"
        )


@dataclass(frozen=True, slots=True)
class GivenMasks:
    """The masks that the user gave, checked.

    Attributes:
        files: by the number of the frame, ascending, each a mask that adds objects.
        new_ids: by the number of the frame, the objects that its mask adds.
    """

    files: dict[int, Path]
    new_ids: dict[int, frozenset[int]]

    @property
    def begin(self) -> int:
        """Number of the first frame to segment."""
        return next(iter(self.files))

    @classmethod
    def read(cls, path: Path, source: Source, *, start: int = 0, stop: int | None = None, every: int = 1) -> Self:
        """Check a mask, or a folder of masks named like frames, against the frames.

        A single mask belongs to frame `start`. In a folder, the first frame from `start` on that has objects is where
        the run begins, and `every` counts from there.

        Raises:
            MaskError: a mask cannot be used; there is none; an object comes only in frames that are left out.
        """
        if not path.is_dir():
            ids = _checked_ids(path, source)
            if not ids:
                raise MaskError(f"{path} is empty: expected at least one id above 0")
            return cls({start: path}, {start: ids})
        files: dict[int, Path] = {}
        new_ids: dict[int, frozenset[int]] = {}
        known: set[int] = set()
        left_out: dict[int, Path] = {}
        for index, file in _named_like_frames(path, source):
            if index < start or (stop is not None and index >= stop):
                continue
            new = _checked_ids(file, source) - known
            if not new:
                continue
            if files and (index - next(iter(files))) % every:
                left_out.update((i, file) for i in new if i not in left_out)
                continue
            files[index], new_ids[index] = file, new
            known |= new
        if not files:
            raise MaskError(f"{path} holds no mask with an object for the frames to segment")
        for object_id, file in left_out.items():
            if object_id not in known:
                raise MaskError(
                    f"object {object_id} is given in {file.name} only, a frame that every={every} leaves out: choose "
                    "another `--every`, or give the object in a frame that is segmented"
                )
        return cls(files, new_ids)

    def at(self, index: int) -> NDArray[np.uint8] | None:
        """The label map given for a frame; None if there is none."""
        file = self.files.get(index)
        return None if file is None else read_label_map(file)

    def ids_until(self, index: int) -> frozenset[int]:
        """Ids of the objects that were given up to and in a frame."""
        return frozenset().union(*(ids for at, ids in self.new_ids.items() if at <= index))

    def fingerprint(self) -> str:
        """Hex digest over the masks' contents and the frames they belong to."""
        listing = "".join(f"{i} {hashlib.sha256(f.read_bytes()).hexdigest()}\n" for i, f in self.files.items())
        return hashlib.sha256(listing.encode()).hexdigest()


def _named_like_frames(folder: Path, source: Source) -> Iterable[tuple[int, Path]]:
    """Frame numbers and mask files, by number."""
    found: dict[int, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda p: natural_key(p.name)):
        if file.suffix.lower() != ".png" or file.name.startswith("."):
            continue
        index = source.index_of(file.stem)
        if index is None:
            of = "" if source.count is None else f" ({source.name(0)} to {source.name(source.count - 1)})"
            raise MaskError(f"{file} is named like no frame of {source.path}{of}: rename or remove it")
        if index in found:
            raise MaskError(f"{file} and {found[index].name} belong to one frame: remove one")
        found[index] = file
    if not found:
        raise MaskError(f"{folder} holds no PNG: expected masks named like frames, such as {source.name(0)}.png")
    return sorted(found.items())


def _checked_ids(file: Path, source: Source) -> frozenset[int]:
    labels = read_label_map(file)
    if labels.shape != source.size:
        (height, width), (frame_height, frame_width) = labels.shape, source.size
        turned = " (the video's rotation metadata is applied)" if (width, height) == source.size else ""
        raise MaskError(
            f"{file} is {width}x{height}, the frames of {source.path} are {frame_width}x{frame_height}{turned}: "
            "expected the same size; resize the mask with nearest neighbour"
        )
    return frozenset(int(i) for i in np.unique(labels) if i)
