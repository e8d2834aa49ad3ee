"""How fast backends were found to run a bundle on a GPU of this machine, kept in the user's cache.

`jointrt bench --device cuda` writes it; "auto" reads it.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from ...errors import OutputError
from ...files import cache_folder, replace_file
from ..backends import Name


def _file(fingerprint: str, gpu: str) -> Path:
    return cache_folder("speeds") / f"{fingerprint[:16]}-{re.sub('[^A-Za-z0-9]+', '-', gpu)}.json"


def _torch() -> str:
    return version("torch") if importlib.util.find_spec("torch") else ""


def known_speeds(fingerprint: str, gpu: str) -> dict[Name, float]:
    """Milliseconds per frame of one object by backend, in its usual precision; none where another torch was measured.

    Args:
        fingerprint: of the bundle.
        gpu: its name.
    """
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, OutputError):
        kept = json.loads(_file(fingerprint, gpu).read_text())
        if kept["torch"] == _torch():
            return {Name(name): float(ms) for name, ms in kept["ms"].items()}
    return {}


def keep_speeds(fingerprint: str, gpu: str, found: Mapping[Name, float]) -> None:
    """Put what was found beside what is known.

    Raises:
        OutputError: the cache cannot be written.
    """
    known = {**known_speeds(fingerprint, gpu), **found}
    text = json.dumps({"torch": _torch(), "ms": {str(name): ms for name, ms in known.items()}}, indent=1)
    replace_file(_file(fingerprint, gpu), f"{text}\n".encode())
