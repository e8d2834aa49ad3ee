"""What a clip is read from: paths, URLs, and what a driver alone can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import VideoError
from ..runtime.video.sources import digest_ends
from .stores import is_web, open_store, told_of

ENDS = 1 << 20
"""Bytes at each end of a local file that its mark is made of, beside its length."""
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "updated")
"""What stores call the word that changes with a file, the surest first."""


def fetch(url: str, folder: Path, contents: Mapping[str, bytes]) -> Path:
    """A local path as it is; anything else copied into a folder.

    Raises:
        VideoError: it cannot be read.
    """
    if "://" not in url:
        return Path(url)
    folder.mkdir()
    here = folder / PurePosixPath(url.partition("?")[0]).name
    if url in contents:
        here.write_bytes(contents[url])
        return here
    files, path = open_store(url)
    with told_of(url, "cannot be read", VideoError):
        files.get(path, str(here), recursive=_is_folder(files, path))
    return here


def mark(url: str, contents: Mapping[str, bytes]) -> str:
    """A word that changes when a file or folder does: of its contents, or of what a store says of them.

    Raises:
        VideoError: it cannot be read.
    """
    if url in contents:
        return hashlib.sha256(contents[url]).hexdigest()
    with told_of(url, "cannot be read", VideoError):
        return _digest_local(Path(url)) if "://" not in url else _digest_stored(*open_store(url))


def _digest_local(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
        digest.update(file.name.encode(errors="surrogateescape") + b"\n")
        digest_ends(file, ENDS, digest)
    return digest.hexdigest()


def _digest_stored(files: Any, path: str) -> str:
    digest = hashlib.sha256()
    found = files.find(path, detail=True) if _is_folder(files, path) else {"": files.info(path)}
    for name, info in sorted(found.items()):
        version = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
        digest.update(json.dumps([name, info.get("size"), version]).encode())
    return digest.hexdigest()


def _is_folder(files: Any, path: str) -> bool:
    """Whether it is one; a web server would have to send the whole film to say so."""
    return path.endswith("/") if is_web(path) else bool(files.isdir(path))
