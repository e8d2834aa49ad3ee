"""What a clip's masks are kept as."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..annotations.sources import open_masks
from ..annotations.targets import WRITERS, Target
from ..runtime.job.output import OutputFolder

FORMATS = {"png": "masks", "ffv1": "masks.mkv", "rle": "masks.json"}
"""Palette PNGs; one lossless video, whose grey values are the ids; COCO's run lengths as JSON. By name, the file."""


def convert_masks(result: Path, kind: str) -> None:
    """Replace `masks/` by the file that holds the same; `png` leaves it."""
    if kind == "png":
        return
    WRITERS[Target(kind)](result / FORMATS[kind], open_masks(result, None).frames(), {})
    shutil.rmtree(result / "masks")
    # It lists the PNGs.
    OutputFolder(result).written.unlink(missing_ok=True)
