"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
from pathlib import Path

from .errors import OutputError


def replace_file(path: Path, content: bytes) -> None:
    """Write aside, then rename.

    Raises:
        OutputError: the file cannot be written; what was there before still is.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
