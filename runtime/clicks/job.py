"""From a picture, a box and clicks to a label map; what `jointrt mask` does, and `jointrt run` without a mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from ...errors import MaskError, OutputError, SettingsError
from ..video.masks import MAX_OBJECTS, read_label_map, write_label_map
from ..video.sources import IMAGE_SUFFIXES, open_source, read_image
from .prompts import Box, Click, Mask
from .segmenter import ClickSegmenter


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What shows the object.

    Attributes:
        box: about all of it; None for none.
        clicks: on it and beside it.
    """

    box: Box | None = None
    clicks: tuple[Click, ...] = ()

    @classmethod
    def read(cls, box: str | None, on: Sequence[str], beside: Sequence[str]) -> Prompt:
        """From what was typed: "x0,y0,x1,y1", and "x,y" of every click.

        Raises:
            SettingsError: a text is something else, or nothing shows the object.
        """
        if box is None and not on:
            raise SettingsError("nothing shows the object: give --box x0,y0,x1,y1 or --click x,y")
        edges = None if box is None else _numbers(box, "--box", "x0,y0,x1,y1")
        clicks = [_click(text, "--click", positive=True) for text in on]
        clicks += [_click(text, "--not", positive=False) for text in beside]
        return cls(box=None if edges is None else (edges[0], edges[1], edges[2], edges[3]), clicks=tuple(clicks))


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRequest:
    """What the user asks for.

    Attributes:
        source: an image, a video or a folder of images.
        frame: number of the frame; 0 for an image.
        prompt: what shows the object.
        object_id: of the object in the mask.
        out: the mask, a PNG.
        add: keep what `out` holds of other objects, and mend what it holds of this one.
        overwrite: replace `out`.
        bundle, backend, threads: see `ClickSegmenter.load`.
    """

    source: Path
    prompt: Prompt
    out: Path
    frame: int = 0
    object_id: int = 1
    add: bool = False
    overwrite: bool = False
    bundle: str = "clicks"
    backend: str = "auto"
    threads: int | None = None


def make_mask(request: MaskRequest) -> NDArray[np.uint8]:
    """Segment one object of one frame and write its mask.

    Returns:
        The label map (H, W) that was written.

    Raises:
        JointError: anything wrong with what the user gave; nothing was written then.
    """
    if not 1 <= request.object_id <= MAX_OBJECTS:
        raise SettingsError(f"id is {request.object_id}: expected 1 to {MAX_OBJECTS}")
    if request.out.suffix.lower() != ".png":
        raise OutputError(f"{request.out} is no PNG: expected a name such as mask.png")
    if request.out.exists() and not (request.add or request.overwrite):
        raise OutputError(f"{request.out} exists: give --add to keep its objects, or --overwrite to replace it")
    image = read_frame(request.source, request.frame)
    labels = np.zeros(image.shape[:2], np.uint8)
    if request.add and request.out.exists():
        labels = read_label_map(request.out)
        if labels.shape != image.shape[:2]:
            raise MaskError(f"{request.out} is {_size(labels)}, the picture {_size(image)}: expected the same size")
    earlier = labels == request.object_id
    segmenter = ClickSegmenter.load(request.bundle, backend=request.backend, threads=request.threads)
    region = segment(segmenter, image, request.prompt, earlier.astype(np.float32) if earlier.any() else None)
    labels[earlier] = 0
    labels[region] = request.object_id
    write_label_map(request.out, labels)
    return labels


@contextmanager
def first_mask(image: NDArray[np.uint8], prompt: Prompt, segmenter: ClickSegmenter) -> Iterator[Path]:
    """A mask for a frame (H, W, 3), in which what is shown is object 1; the file lasts as long as the block.

    Raises:
        JointError: see `make_mask`.
    """
    region = segment(segmenter, image, prompt)
    with TemporaryDirectory(prefix="jointrt-") as folder:
        path = Path(folder) / "clicked.png"
        write_label_map(path, region.astype(np.uint8))
        yield path


def segment(
    segmenter: ClickSegmenter, image: NDArray[np.uint8], prompt: Prompt, mask: Mask | None = None
) -> NDArray[np.bool_]:
    """Where the object is, (H, W): the box first, then one click after the other, each mending the last mask.

    Raises:
        MaskError: nothing was found.
        SettingsError: see `ClickSegmenter.predict`.
    """
    segmenter.set_image(image)
    if prompt.box is not None and mask is None:
        mask = segmenter.predict(box=prompt.box)
    for count in range(1, len(prompt.clicks) + 1):
        mask = segmenter.predict(prompt.clicks[:count], prompt.box, mask)
    if mask is None or not (mask > 0.5).any():
        raise MaskError("nothing was found there: give a box about the object, or further clicks on it")
    return mask > 0.5


def read_frame(source: Path, frame: int) -> NDArray[np.uint8]:
    """A frame of a video or a folder, or an image, (H, W, 3) uint8 RGB.

    Raises:
        SettingsError: there is no frame of that number.
        VideoError: it cannot be read.
    """
    if frame < 0:
        raise SettingsError(f"frame is {frame}: expected 0 or more")
    if source.suffix.lower() in IMAGE_SUFFIXES and source.is_file():
        if frame:
            raise SettingsError(f"frame is {frame}, but {source} is a single image: leave it out")
        return read_image(source)
    opened = open_source(source)
    found = next(iter(opened.frames(frame, frame + 1)), None)
    if found is None:
        raise SettingsError(f"frame is {frame}: {source} has no such frame")
    return found.image


def _click(text: str, name: str, *, positive: bool) -> Click:
    x, y = _numbers(text, name, "x,y")
    return Click(x, y, positive)


def _numbers(text: str, name: str, form: str) -> list[float]:
    parts = text.split(",")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != form.count(",") + 1 or not all(map(math.isfinite, values)):
        raise SettingsError(f"{name} is {text!r}: expected {form} in pixels")
    return values


def _size(array: NDArray[np.uint8]) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
