"""From clicks and a box to a mask of one object in one picture."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from ...errors import DeviceError, MaskError, SettingsError
from ..cpu.onnxruntime_engine import Buffer, Engine, Runnable
from ..cpu.openvino_engine import OpenVinoEngine
from ..settings import available_cores
from ..tracking.frame_checks import check_frame
from .bundle import CLICK_GRAPHS, ClickBundle
from .prompts import Box, Click, Image, Mask, Window, box_of, prompt_planes, snapped, whole, window_about

BACKENDS = ("auto", "onnxruntime", "openvino")
_CROPS = 8
"""Crops of a picture whose features are kept."""
_FIRST_LOOK = 3
"""Where a first click shows no object, the crop is the picture's shorter side divided by this."""
_NO_PICTURE = "there is no picture yet: call set_image first"


class ClickSegmenter:
    """Masks of one object in a picture; give the picture once, then clicks as they come.

    The features of a crop are kept, so that a further click in the same crop costs the smaller graph only. A mask
    depends on the arguments of `predict` alone, not on what was asked before.
    """

    def __init__(self, bundle: ClickBundle, engines: Mapping[str, Runnable]) -> None:
        self.bundle = bundle
        self._engines = engines
        self._side = side = bundle.manifest.crop
        self._crop = Buffer.zeros(1, 3, side, side)
        self._prompts = Buffer.zeros(1, 4, side, side)
        self._logits = Buffer.zeros(1, 1, side, side)
        self._image: Image | None = None
        self._kept: OrderedDict[Window, dict[str, Buffer]] = OrderedDict()

    @classmethod
    def load(cls, bundle: str | Path = "clicks", *, threads: int | None = None, backend: str = "auto") -> Self:
        """Load a bundle for clicks.

        Args:
            bundle: name of an installed one, or a folder.
            threads: cores to use; all that the process may use if None.
            backend: "onnxruntime", which "auto" takes, or "openvino".

        Raises:
            BundleError: the bundle cannot be used.
            DependencyError: the backend is not installed.
            DeviceError: there is no such backend.
            SettingsError: threads is out of its range.
        """
        if backend not in BACKENDS:
            raise DeviceError(f"backend {backend!r} does not run clicks: choose one of {', '.join(BACKENDS)}")
        threads = available_cores() if threads is None else threads
        if not 1 <= threads <= 1024:
            raise SettingsError(f"threads is {threads}: expected 1 to 1024")
        opened = ClickBundle.open(bundle)
        return cls(opened, load_click_engines(opened, threads, backend))

    def set_image(self, frame: Image) -> None:
        """Take another picture, (H, W, 3) uint8 RGB; it is copied.

        Raises:
            SettingsError: it is something else.
        """
        self._image = np.array(check_frame(frame, None), order="C")
        self._kept.clear()

    def prepare(self) -> None:
        """Compute ahead what a first click on an object waits for, the features of the whole picture.

        Raises:
            SettingsError: there is no picture.
        """
        if self._image is None:
            raise SettingsError(_NO_PICTURE)
        self._features(whole((self._image.shape[0], self._image.shape[1])))

    def predict(self, clicks: Sequence[Click] = (), box: Box | None = None, mask: Mask | None = None) -> Mask:
        """The object's mask.

        Args:
            clicks: all so far, on the object and beside it.
            box: x0, y0, x1, y1 in pixels, about the whole object.
            mask: the last mask (H, W), 0..1, which is mended; without it and a box, the picture is looked at as a
                whole first and then closely.

        Returns:
            (H, W) float32, 0..1; the object is where it is above 0.5.

        Raises:
            MaskError: the mask does not fit the picture.
            SettingsError: there is no picture, or neither a box nor a click on the object nor a mask and a click; or
                one of them does not lie in the picture.
        """
        image = self._image
        if image is None:
            raise SettingsError(_NO_PICTURE)
        shape = (image.shape[0], image.shape[1])
        clicks, box, mask = _checked(clicks, box, mask, shape)
        if mask is not None and not (mask > 0.5).any():
            mask = None
        on = [click for click in clicks if click.positive]
        if box is None and mask is None:
            if not on:
                raise SettingsError("nothing shows the object: expected a box, or a click on it (a positive one)")
            mask = self._look(whole(shape), clicks, None, None)
            mask = _clicked_parts(mask, on)
        about = box if box is not None or mask is None else box_of(mask > 0.5)
        around = _reaching(about, on) if about is not None else _about_click(on, shape)
        return self._look(snapped(window_about(around, shape), shape), clicks, box, mask)

    def _look(self, window: Window, clicks: Sequence[Click], box: Box | None, mask: Mask | None) -> Mask:
        assert self._image is not None
        side = self._side
        previous = None if mask is None else window.cut_mask(mask, side)
        self._prompts.array[0] = prompt_planes(window, side, clicks, box, previous)
        inputs = {**self._features(window), "prompts": self._prompts}
        self._engines["mask"].run(inputs, {"logits": self._logits})
        return window.paste(self._logits.array[0, 0], (self._image.shape[0], self._image.shape[1]))

    def _features(self, window: Window) -> dict[str, Buffer]:
        """Of a crop, kept or computed."""
        kept = self._kept.get(window)
        if kept is not None:
            self._kept.move_to_end(window)
            return kept
        assert self._image is not None
        self._crop.array[0] = window.cut(self._image, self._side).transpose(2, 0, 1)
        ports = self.bundle.manifest.graphs["features"].outputs
        features = {port.name: Buffer.zeros(1, *(int(n) for n in port.shape[1:])) for port in ports}
        self._engines["features"].run({"crop": self._crop}, features)
        self._kept[window] = features
        if len(self._kept) > _CROPS:
            self._kept.popitem(last=False)
        return features


def load_click_engines(bundle: ClickBundle, threads: int, backend: str = "auto") -> dict[str, Runnable]:
    """A bundle's graphs by name, loaded.

    Raises:
        BundleError: a graph does not load.
        DependencyError: the backend is not installed.
    """
    engines: dict[str, Runnable] = {}
    for name in CLICK_GRAPHS:
        record = bundle.manifest.graphs[name]
        path = bundle.folder / record.file
        engines[name] = (
            OpenVinoEngine(path, record, threads, "fp32", 1, convolutions=True)
            if backend == "openvino"
            else Engine(path, record, threads)
        )
    return engines


def _checked(
    clicks: Sequence[Click], box: Box | None, mask: Mask | None, shape: tuple[int, int]
) -> tuple[Sequence[Click], Box | None, Mask | None]:
    """What `predict` was given, the box cut off at the picture's edge."""
    height, width = shape
    for click in clicks:
        if not (-0.5 <= click.x < width and -0.5 <= click.y < height):
            raise SettingsError(f"the click at {click.x:g},{click.y:g} lies outside of the picture, {width}x{height}")
    if box is not None:
        x0, y0, x1, y1 = box
        if not all(map(math.isfinite, box)) or x1 - x0 < 1 or y1 - y0 < 1:
            raise SettingsError(f"the box is {_numbers(box)}: expected x0,y0,x1,y1 with x0 below x1 and y0 below y1")
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            raise SettingsError(f"the box {x0:g},{y0:g},{x1:g},{y1:g} lies outside of the picture, {width}x{height}")
    if mask is not None:
        if mask.shape != shape:
            found = "x".join(str(n) for n in reversed(mask.shape))
            raise MaskError(f"the last mask is {found}, the picture {width}x{height}: expected the same size")
        mask = np.asarray(mask, np.float32)
        if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
            raise MaskError("the last mask has values beyond 0 to 1: expected what `predict` returned, or 0 and 1")
    return clicks, box, mask


def _numbers(box: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in box)


def _clicked_parts(mask: Mask, on: Sequence[Click]) -> Mask | None:
    """The connected parts of a mask that clicks lie on; None if they lie on none."""
    _, parts = cv2.connectedComponents((mask > 0.5).view(np.uint8))
    hit = {int(parts[_pixel(click, mask.shape)]) for click in on} - {0}
    if not hit:
        return None
    return np.where(np.isin(parts, list(hit)), mask, np.float32(0))


def _pixel(click: Click, shape: tuple[int, ...]) -> tuple[int, int]:
    return min(max(round(click.y), 0), shape[0] - 1), min(max(round(click.x), 0), shape[1] - 1)


def _reaching(box: Box, on: Sequence[Click]) -> Box:
    """The box, made so large that all clicks lie in it."""
    xs, ys = [click.x for click in on], [click.y for click in on]
    return min([box[0], *xs]), min([box[1], *ys]), max([box[2], *xs]), max([box[3], *ys])


def _about_click(on: Sequence[Click], shape: tuple[int, int]) -> Box:
    half = min(shape) / _FIRST_LOOK / 2
    click = on[0]
    return _reaching((click.x - half, click.y - half, click.x + half, click.y + half), on)
