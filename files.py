"""Files that are whole or not there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import OutputError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place.

    Raises:
        OutputError: the file cannot be written; what was there before still is.
    """
    # A name of its own length: that of the file may be as long as the file system allows.
    aside = path.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
    try:
        write(aside)
        aside.replace(path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
        raise


def replace_file(path: Path, content: bytes) -> None:
    """Write bytes; errors as of `write_whole`."""
    write_whole(path, lambda aside: aside.write_bytes(content))


def check_writable(*files: Path | None) -> None:
    """Refuse, before anything is computed, files that could not be written; None is passed over.

    Raises:
        OutputError: one is a folder, or its own folder is not there.
    """
    for file in files:
        if file is not None and (file.is_dir() or not file.parent.is_dir()):
            raise OutputError(f"{file} cannot be written: expected a file in a folder that exists")


def cache_folder(name: str) -> Path:
    """A folder of the user's for what can be made again, such as measurements of this machine and compiled code.

    `$XDG_CACHE_HOME/jointrt/NAME` on Linux, and what is customary elsewhere; made if it is not there.

    Raises:
        OutputError: it cannot be made.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path("jointrt", appauthor=False) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}; set XDG_CACHE_HOME") from None
    return folder
