"""Label maps: reading and checking what the user gives, writing palette PNGs, comparing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import MaskError
from ...files import write_whole
from .sources import MAX_PIXELS, Source, instead_of_a_file, natural_key

MAX_OBJECTS = 255
RAMP_SHARE = 0.8
"""Share of a value's pixels that lie strictly between their neighbours where the value comes from smoothing."""
MIN_SHADES = 3
"""Such values from which on they are taken for smoothing; fewer may be thin objects beside others."""
MIN_PHOTO_IDS = 16
PHOTO_INSIDE = 0.1
"""Ids from which on, and share of the pixels up to which, a picture is taken for a photo."""
SMALL_OBJECT = 100
"""Pixels below which the released tracker keeps an object's place and size (see `tracking.target_state.MIN_AREA`)."""
VOID = 255
"""The id that many data sets give to pixels that count for nothing."""


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
    write_whole(path, lambda aside: image.save(aside, format="PNG"))


def read_label_map(path: Path, *, hard: bool = False, white: int = 1) -> NDArray[np.uint8]:
    """Read a mask as a label map (H, W): 0 for the background, ids from 1 to 255.

    The ids of a palette PNG and the values of a grey PNG are kept. Where a palette's first colour is not black, the
    black pixels are the background, or those of the colour that most of the border has; their index and 0 change
    places. So do a palette's transparent pixels. Another picture that is cut out by its transparency is one object.

    Args:
        path: a PNG.
        hard: take grey values as ids even where they look like smoothed edges.
        white: id of white in a grey PNG of black and white only.

    Raises:
        MaskError: not a PNG; colours without a palette; smoothed edges; ids that do not fit 8 bits.
    """
    _refuse_no_file(path)
    try:
        with Image.open(path) as image:
            if image.format != "PNG":
                raise MaskError(f"{path} is a {image.format} image: expected a PNG, which keeps ids exactly")
            if image.width * image.height > MAX_PIXELS:
                raise MaskError(f"{path} is {image.width}x{image.height}: expected at most {MAX_PIXELS} pixels")
            mode = image.mode
            values = _values(image, path)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError(f"{path} cannot be read as a PNG: {error}") from None
    ids: list[int] = np.unique(values).tolist()
    if mode != "P" and len(ids) <= 2 and ids[-1] == np.iinfo(values.dtype).max and ids[0] in (0, ids[-1]):
        return np.where(values > 0, np.uint8(white), np.uint8(0))
    objects = [i for i in ids if i]
    if len(objects) > MAX_OBJECTS:
        raise MaskError(
            f"{path} holds {len(objects)} objects: expected at most {MAX_OBJECTS}; split them over several runs"
        )
    if ids[-1] > 255:
        raise MaskError(f"{path} holds ids up to {ids[-1]}: expected 1 to 255; number the objects anew")
    labels = values.astype(np.uint8)
    if not hard:
        _refuse_photo(labels, objects, path)
        if mode != "P":
            _refuse_smoothed(labels, objects, path)
    return labels


def _refuse_no_file(path: Path) -> None:
    """Refuse what cannot be opened, or would wait for a writer for ever."""
    try:
        if path.is_file():
            return
        found = instead_of_a_file(path)
    except OSError as error:
        raise MaskError(f"{path} cannot be read: {error.strerror or error}") from None
    raise MaskError(f"{found}: expected a mask, a PNG")


def _values(image: Image.Image, path: Path) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """One value per pixel, uint8 or uint16."""
    if image.mode == "1":
        return np.array(image.convert("L"))
    if image.mode == "P":
        return _on_background(np.array(image), image, path)
    if image.mode == "L":
        return np.array(image)
    if image.mode.startswith("I"):
        return np.array(image).astype(np.uint16)
    channels = np.array(image.convert("RGBA"))
    colours, alpha = channels[..., :3], channels[..., 3]
    cut_out = bool((alpha == 0).any() and (alpha > 0).any())
    grey = not (colours != colours[..., :1]).any()
    if cut_out and (not grey or not colours[alpha > 0].any()):
        return np.where(alpha >= 128, np.uint8(255), np.uint8(0))
    if not grey:
        count = len(np.unique(colours.reshape(-1, 3), axis=0))
        raise MaskError(
            f"{path} is an RGB image of {count} colours with no palette, so no colour says which object it is: save it "
            "as an indexed (palette) PNG, or as a grey PNG with 0 for the background and 1, 2, ... for the objects"
        )
    return np.where(alpha > 0, colours[..., 0], 0).astype(np.uint8)


def _on_background(indices: NDArray[np.uint8], image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """Indices of a palette image, those of the background being 0."""
    palette = np.array(image.getpalette("RGB") or (), np.uint8).reshape(-1, 3)
    used = [int(i) for i in np.unique(indices)]
    background = _transparent(image, used)
    if not background and (not len(palette) or not palette[0].any()):
        return indices
    border = np.concatenate([indices[0], indices[-1], indices[:, 0], indices[:, -1]])
    most = int(np.bincount(border).argmax())
    background = background or [i for i in used if i < len(palette) and not palette[i].any()]
    if background and most not in background and not _transparent(image, used):
        colour, other = ("#{:02x}{:02x}{:02x}".format(*palette[i]) for i in (0, most))
        raise MaskError(
            f"{path}: the palette's index 0 is {colour}, black is index {background[0]}, and the border is {other}: "
            "which is the background cannot be told; save it with a palette whose index 0 is black, for the background"
        )
    background = background or [most]
    mapped = np.arange(256, dtype=np.uint8)
    if 0 not in background:
        mapped[0] = background[0]
    mapped[background] = 0
    return mapped[indices]


def _transparent(image: Image.Image, used: list[int]) -> list[int]:
    """Those of a palette image's indices that are transparent, where others are not."""
    alpha = image.info.get("transparency", b"")
    clear = [i for i in used if (i == alpha if isinstance(alpha, int) else i < len(alpha) and not alpha[i])]
    return clear if len(clear) < len(used) else []


def _refuse_photo(labels: NDArray[np.uint8], objects: list[int], path: Path) -> None:
    """Refuse many ids that hardly anywhere are three pixels wide."""
    kernel = np.ones((3, 3), np.uint8)
    inside = np.count_nonzero(cv2.erode(labels, kernel) == cv2.dilate(labels, kernel))
    if len(objects) >= MIN_PHOTO_IDS and inside < PHOTO_INSIDE * labels.size:
        raise MaskError(
            f"{path} holds {len(objects)} ids that are hardly anywhere three pixels wide: it looks like a photo of few "
            "colours; give a mask, or say that they are ids with --hard-mask"
        )


def _refuse_smoothed(labels: NDArray[np.uint8], objects: list[int], path: Path) -> None:
    """Refuse grey values that are mostly shades between their neighbours' along edges, several of them."""
    kernel = np.ones((3, 3), np.uint8)
    low, high = cv2.erode(labels, kernel), cv2.dilate(labels, kernel)
    pixels = np.bincount(labels.ravel(), minlength=256)
    between = np.bincount(labels[(low < labels) & (labels < high)], minlength=256)
    shades = sum(between[i] >= RAMP_SHARE * pixels[i] for i in objects)
    if shades >= MIN_SHADES and 2 * shades >= len(objects):
        raise MaskError(
            f"{path} holds {len(objects)} ids, {shades} of them only along edges: it is anti-aliased or was resized "
            "smoothly; export it with hard edges, resize with nearest neighbour, threshold it, or say that they are "
            "ids with --hard-mask"
        )


@dataclass(frozen=True, slots=True)
class MaskReading:
    """How given masks are read.

    Attributes:
        hard: see `read_label_map`.
        keep_void: follow id `VOID` beside other ids as an object; otherwise it is background, as data sets mean it.
        min_area: pixels below which an object is told to be small.
    """

    hard: bool = False
    keep_void: bool = False
    min_area: float = SMALL_OBJECT


def _has_void(labels: NDArray[np.uint8]) -> bool:
    """Whether `VOID` is there beside other ids."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return bool(counts[VOID] and counts[1:VOID].any())


@dataclass(frozen=True, slots=True)
class GivenMasks:
    """The masks that the user gave, checked.

    Attributes:
        files: by the number of the frame, ascending, each a mask that adds objects or corrects some.
        new_ids: by the number of the frame, the objects that its mask adds.
        used_ids: by the number of the frame, the objects that are taken from its mask: new ones and corrected ones.
        reading: how they are read.
        notes: what the user should know: masks that have no effect and why, and what looks like a mistake.
    """

    files: dict[int, Path]
    new_ids: dict[int, frozenset[int]]
    used_ids: dict[int, frozenset[int]]
    reading: MaskReading
    notes: tuple[str, ...] = ()

    @property
    def begin(self) -> int:
        """Number of the first frame to segment."""
        return next(iter(self.files))

    @classmethod
    def read(
        cls,
        path: Path,
        source: Source,
        *,
        start: int = 0,
        stop: int | None = None,
        every: int = 1,
        reading: MaskReading | None = None,
        correct: bool = False,
    ) -> Self:
        """Check a mask, or a folder of masks named like frames, against the frames.

        A single mask belongs to frame `start`. In a folder, the first frame from `start` on that has objects is where
        the run begins, and `every` counts from there.

        Args:
            path: a PNG, or a folder of them.
            source: the frames.
            start, stop, every: which frames are segmented.
            reading: how masks are read.
            correct: whether later masks correct objects that are known already; otherwise they have no effect.

        Raises:
            MaskError: a mask cannot be used; there is none; an object comes only in frames that are left out.
        """
        reading = reading or MaskReading()
        checks = _Checks(reading, source)
        if not path.is_dir():
            ids = checks.ids(path)
            if not ids:
                raise MaskError(f"{path} is empty: expected at least one id above 0")
            return cls({start: path}, {start: ids}, {start: ids}, reading, checks.notes())
        files: dict[int, Path] = {}
        new_ids: dict[int, frozenset[int]] = {}
        used_ids: dict[int, frozenset[int]] = {}
        known: set[int] = set()
        left_out: dict[int, Path] = {}
        for index, file in _named_like_frames(path, source):
            if index < start or (stop is not None and index >= stop):
                checks.unused("outside of the frames to segment", file)
                continue
            ids = checks.ids(file)
            new = ids - known
            if not ids:
                checks.unused("empty: an object is not ended by that", file)
            elif files and (index - next(iter(files))) % every:
                checks.unused(f"given in frames that every={every} leaves out", file)
                left_out.update((i, file) for i in new if i not in left_out)
            elif new or correct:
                files[index], new_ids[index] = file, new
                used_ids[index] = ids if correct else new
                known |= new
                if used_ids[index] < ids:
                    checks.partly_used.append(file)
            else:
                checks.unused("only of objects that are followed already: --correct takes them as corrections", file)
        if not files:
            raise MaskError(f"{path} holds no mask with an object for the frames to segment")
        for object_id, file in left_out.items():
            if object_id not in known:
                raise MaskError(
                    f"object {object_id} is given in {file.name} only, a frame that every={every} leaves out: choose "
                    "another `--every`, or give the object in a frame that is segmented"
                )
        return cls(files, new_ids, used_ids, reading, checks.notes())

    def at(self, index: int) -> NDArray[np.uint8] | None:
        """The label map given for a frame; None if there is none."""
        file = self.files.get(index)
        if file is None:
            return None
        used = self.used_ids[index]
        labels = read_label_map(file, hard=self.reading.hard, white=VOID if VOID in used else 1)
        return np.where(np.isin(labels, list(used)), labels, np.uint8(0))

    def ids_until(self, index: int) -> frozenset[int]:
        """Ids of the objects that were given up to and in a frame."""
        return frozenset().union(*(ids for at, ids in self.new_ids.items() if at <= index))

    def fingerprint(self) -> str:
        """Hex digest over the masks' contents, the frames they belong to and what is taken from them."""
        listing = "".join(
            f"{i} {hashlib.sha256(f.read_bytes()).hexdigest()} {sorted(self.used_ids[i])}\n"
            for i, f in self.files.items()
        )
        return hashlib.sha256(listing.encode()).hexdigest()


class _Checks:
    """Given masks against the frames' size, and notes of what was met.

    Attributes:
        white: id of white in masks of black and white: that of the void once a mask has it beside other ids.
        partly_used: masks that add objects and show others that are followed already.
    """

    def __init__(self, reading: MaskReading, source: Source) -> None:
        self.reading = reading
        self.source = source
        self.white = 1
        self.partly_used: list[Path] = []
        self._unused: dict[str, list[Path]] = {}
        self._void: list[Path] = []
        self._bordering: list[Path] = []
        self._small: dict[int, int] = {}

    def ids(self, file: Path) -> frozenset[int]:
        """The ids of a mask."""
        labels = read_label_map(file, hard=self.reading.hard, white=self.white)
        if labels.shape != self.source.size:
            (height, width), (frame_height, frame_width) = labels.shape, self.source.size
            turned = " (the video's rotation metadata is applied)" if (width, height) == self.source.size else ""
            raise MaskError(
                f"{file} is {width}x{height}, the frames of {self.source.path} are {frame_width}x{frame_height}"
                f"{turned}: expected the same size; resize the mask with nearest neighbour"
            )
        if _has_void(labels):
            self.white = VOID
        if self.white == VOID and not self.reading.keep_void and (labels == VOID).any():
            self._void.append(file)
            labels = np.where(labels == VOID, np.uint8(0), labels)
        border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        if 2 * np.count_nonzero(border) > border.size:
            self._bordering.append(file)
        counts = np.bincount(labels.ravel(), minlength=256)
        ids = [int(i) for i in np.flatnonzero(counts) if i]
        small = {i: int(counts[i]) for i in ids if counts[i] < self.reading.min_area and i not in self._small}
        self._small.update(small)
        return frozenset(ids)

    def unused(self, why: str, file: Path) -> None:
        """A mask that has no effect."""
        self._unused.setdefault(why, []).append(file)

    def notes(self) -> tuple[str, ...]:
        """One line of each kind."""
        found = [f"{_masks(files)} not used, {why} ({files[0].name})" for why, files in self._unused.items()]
        if self.partly_used:
            found.append(
                f"{_masks(self.partly_used)} used for new objects only ({self.partly_used[0].name}): --correct takes "
                "what they show of objects that are followed already as corrections"
            )
        if self._void:
            found.append(
                f"{_masks(self._void)} with id {VOID} beside others ({self._void[0].name}): taken as void, which is "
                "background; --keep-255 follows it as an object"
            )
        if self._bordering:
            found.append(
                f"{_masks(self._bordering)} whose objects cover most of the frame's border ({self._bordering[0].name}):"
                " if that is the background, it is followed as an object"
            )
        if self._small:
            listed = [f"{i} ({n} pixels)" for i, n in sorted(self._small.items())]
            small = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
            found.append(
                f"small objects: {small}; place and size are kept where an object has under "
                f"{self.reading.min_area:g} pixels, so it is lost once it moves; --min-area follows smaller ones"
            )
        return tuple(found)


def _masks(files: list[Path]) -> str:
    return "1 mask" if len(files) == 1 else f"{len(files)} masks"


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
