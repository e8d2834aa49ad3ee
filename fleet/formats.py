"""What a clip's masks are kept as."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runtime.video.sources import FOLDER_RATE, natural_key

FORMATS = ("png", "ffv1", "rle")
"""Palette PNGs; one lossless video, whose grey values are the ids; COCO's run lengths as JSON."""


def convert_masks(result: Path, kind: str) -> None:
    """Replace `masks/` by `masks.mkv` or `masks.json`; `png` leaves it."""
    if kind == "png":
        return
    files = sorted((result / "masks").glob("*.png"), key=lambda p: natural_key(p.name))
    (_write_video if kind == "ffv1" else _write_rle)(files, result)
    shutil.rmtree(result / "masks")


def _labels(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as image:
        return np.array(image)


def _write_video(files: list[Path], result: Path) -> None:
    import av

    # Without the flag the muxer writes a random id and its version.
    with av.open(str(result / "masks.mkv"), "w", options={"fflags": "+bitexact"}) as container:
        height, width = _labels(files[0]).shape
        stream = container.add_stream("ffv1", rate=Fraction(FOLDER_RATE))
        stream.width, stream.height, stream.pix_fmt = width, height, "gray"
        for file in files:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_labels(file), format="gray")))
        container.mux(stream.encode())


def _write_rle(files: list[Path], result: Path) -> None:
    from pycocotools import mask

    frames: dict[str, dict[str, str]] = {}
    size: list[int] = []
    for file in files:
        labels = _labels(file)
        size = list(labels.shape)
        ids = [int(i) for i in np.unique(labels) if i]
        runs = {str(i): mask.encode(np.asfortranarray(labels == i))["counts"].decode("ascii") for i in ids}
        frames[file.stem] = runs
    (result / "masks.json").write_text(json.dumps({"size": size, "frames": frames}) + "\n", encoding="utf-8")
