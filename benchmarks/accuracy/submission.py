"""The archive that YouTube-VOS's evaluation server takes."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ...errors import OutputError
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
    part = path.with_name(f".{path.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for sequence in sorted(sequences, key=lambda s: s.name):
                for frame in sequence.required:
                    name = f"{ANNOTATIONS}/{sequence.name}/{frame}.png"
                    # Names of files need not be text.
                    entry = zipfile.ZipInfo(name.encode(errors="backslashreplace").decode(), EARLIEST)
                    entry.external_attr = 0o644 << 16
                    entry.create_system = 3
                    archive.writestr(entry, (masks / sequence.name / f"{frame}.png").read_bytes())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
