"""The archive that YouTube-VOS's evaluation server takes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path

from ...files import write_whole
from .datasets import ANNOTATIONS, Sequence

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The earliest date an archive can state; the same contents give the same archive."""


def write_submission(path: Path, sequences: Iterable[Sequence], masks: Path) -> None:
    """Write `Annotations/SEQUENCE/FRAME.png` of the required frames; the file appears whole or not at all.

    Args:
        path: the archive.
        sequences: whose masks go in.
        masks: folder of the masks, `SEQUENCE/FRAME.png`.

    Raises:
        OutputError: it cannot be written.
    """

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for sequence in sorted(sequences, key=lambda s: s.name):
                for frame in sequence.required:
                    entry = zipfile.ZipInfo(f"{ANNOTATIONS}/{sequence.name}/{frame}.png", EARLIEST)
                    entry.external_attr = 0o644 << 16
                    entry.create_system = 3
                    archive.writestr(entry, (masks / sequence.name / f"{frame}.png").read_bytes())

    write_whole(path, write)
