"""What a clip is read from: paths, URLs, and what a driver alone can read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ..runtime.video.sources import digest_ends

ENDS = 1 << 20
"""Bytes at each end of a local file that its mark is made of, beside its length."""
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "updated")
"""What stores call the word that changes with a file, the surest first."""


def fetch(url: str, folder: Path, contents: Mapping[str, bytes]) -> Path:
    """A local path as it is; anything else copied into a folder."""
    if "://" not in url:
        return Path(url)
    import fsspec

    folder.mkdir()
    here = folder / PurePosixPath(url.partition("?")[0]).name
    if url in contents:
        here.write_bytes(contents[url])
        return here
    files, path = fsspec.url_to_fs(url)
    files.get(path, str(here), recursive=files.isdir(path))
    return here


def mark(url: str, contents: Mapping[str, bytes]) -> str:
    """A word that changes when a file or folder does: of its contents, or of what a store says of them.

    Raises:
        OSError: it cannot be read.
    """
    if url in contents:
        return hashlib.sha256(contents[url]).hexdigest()
    digest = hashlib.sha256()
    if "://" not in url:
        path = Path(url)
        for file in sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]:
            digest.update(file.name.encode(errors="surrogateescape") + b"\n")
            digest_ends(file, ENDS, digest)
        return digest.hexdigest()
    import fsspec

    files, path_there = fsspec.url_to_fs(url)
    found = files.find(path_there, detail=True) if files.isdir(path_there) else {"": files.info(path_there)}
    for name, info in sorted(found.items()):
        version = next((str(info[key]) for key in VERSIONS if info.get(key)), "")
        digest.update(json.dumps([name, info.get("size"), version]).encode())
    return digest.hexdigest()
