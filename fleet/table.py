"""The table of clips, read row by row: it may be longer than memory."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DatasetError
from ..runtime.video.sources import IMAGE_SUFFIXES
from .stores import open_store, told_of

NAME = re.compile(r"\w[\w .,+=@&'()-]*")
"""A clip's name is its folder's in the output: nothing that stores or shells read otherwise."""
NAME_BYTES = 200
RESERVED = {"report.html", "report.jsonl"}
ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Clip:
    """One row.

    Attributes:
        name: of its folder in the output.
        video: path or URL of a video file or a folder of images.
        mask: path or URL of its mask; empty where the row gives none.
        start, end, every: see `runtime.job.run.Request`.
        length: frames to segment; None where nothing says it cheaply.
        fault: what is wrong with the row; None if nothing.
    """

    name: str
    video: str
    mask: str
    start: int = 0
    end: int | None = None
    every: int = 1
    length: int | None = None
    fault: str | None = None


def read_clips(inputs: str) -> Iterator[Clip]:
    """Clips of a table (`.csv`, `.jsonl`, `.parquet`; path or URL) or of a folder laid out as DAVIS or YouTube-VOS.

    Raises:
        DatasetError: it cannot be read, is neither, lacks a column, or a name cannot be a folder's.
    """
    if "://" not in inputs and Path(inputs).is_dir():
        yield from _folder(Path(inputs))
        return
    with told_of(inputs, "cannot be read as a table", DatasetError):
        for number, row in enumerate(_rows(inputs), 1):
            yield _clip(row, f"{inputs}, row {number}")


class Names:
    """The names of a table's clips; of each 8 bytes of a hash are kept."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, name: str) -> bool:
        return self._hash(name) in self._seen

    def add(self, name: str) -> bool:
        """Whether it was not there."""
        before = len(self._seen)
        self._seen.add(self._hash(name))
        return len(self._seen) > before

    @staticmethod
    def _hash(name: str) -> int:
        return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def read_names(inputs: str) -> Names:
    """Names of a table's clips, read once.

    Raises:
        DatasetError: see `read_clips`; or two rows have one name, or there is none.
    """
    names = Names()
    for clip in read_clips(inputs):
        if not names.add(clip.name):
            raise DatasetError(f"{inputs}: two clips are called {clip.name}: give each a `name` of its own")
    if not names:
        raise DatasetError(f"{inputs} holds no clip: expected rows with `video` and `mask`")
    return names


def _rows(inputs: str) -> Iterator[Mapping[str, Any]]:
    files, path = open_store(inputs)
    suffix = PurePosixPath(path.partition("?")[0]).suffix.lower()
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        with files.open(path, "rb") as stream:
            try:
                for batch in parquet.ParquetFile(stream).iter_batches(ROWS_AT_ONCE):
                    yield from batch.to_pylist()
            except pyarrow.ArrowInvalid as error:
                raise DatasetError(f"{inputs} is not a Parquet file: {error}") from None
    elif suffix == ".csv":
        with files.open(path, "rt", encoding="utf-8-sig", newline="") as stream:
            yield from csv.DictReader(stream)
    elif suffix in (".jsonl", ".ndjson"):
        with files.open(path, "rt", encoding="utf-8") as stream:
            yield from (json.loads(line) for line in stream if line.strip())
    else:
        raise DatasetError(f"{inputs} is not a table: expected .csv, .jsonl or .parquet, or a data set's folder")


def _clip(row: Any, place: str) -> Clip:
    if not isinstance(row, Mapping) or not row.get("video"):
        raise DatasetError(
            f"{place} has no `video`: expected columns `video`, `mask` and perhaps name, start, end, every"
        )
    video, mask = str(row["video"]), str(row.get("mask") or "")
    # A worker may stand in another folder.
    video, mask = (u if not u or "://" in u else str(Path(u).absolute()) for u in (video, mask))
    name = _checked_name(str(row.get("name") or _stem(video)), place)
    try:
        start, every = int(row.get("start") or 0), int(row.get("every") or 1)
        end = int(row["end"]) if row.get("end") not in (None, "") else None
    except (TypeError, ValueError):
        return Clip(name, video, mask, fault="start, end and every are whole numbers")
    length = None if end is None else len(range(start, end, max(every, 1)))
    fault = None if mask else "the row gives no mask"
    return Clip(name, video, mask, start, end, every, length, fault)


def _stem(video: str) -> str:
    """A video's name without folder and suffix, and without what a URL asks beside it."""
    return PurePosixPath(video.partition("?")[0] if "://" in video else video).stem


def _checked_name(name: str, place: str) -> str:
    if not NAME.fullmatch(name) or len(name.encode()) > NAME_BYTES or name in RESERVED:
        raise DatasetError(
            f"{place}: {name[:NAME_BYTES]!r} cannot be a clip's name: expected letters, digits, spaces and "
            f"_.,+=@&'()-, a letter or digit first, at most {NAME_BYTES} bytes"
        )
    return name


def _folder(root: Path) -> Iterator[Clip]:
    davis = (root / "JPEGImages" / "480p").is_dir()
    frames, masks = (root / kind / "480p" if davis else root / kind for kind in ("JPEGImages", "Annotations"))
    if not frames.is_dir() or not masks.is_dir():
        raise DatasetError(
            f"{root} is no data set: expected JPEGImages and Annotations, as DAVIS or YouTube-VOS has them"
        )
    for folder in sorted(p for p in frames.iterdir() if p.is_dir() and not p.name.startswith(".")):
        name = _checked_name(folder.name, str(frames))
        given = sorted((masks / folder.name).glob("*.png"))
        # DAVIS holds the truth of every frame; only the first is given to a method.
        mask = "" if not given else str(given[0] if davis else masks / folder.name)
        length = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in folder.iterdir())
        yield Clip(name, str(folder), mask, length=length, fault=None if mask else "no mask in Annotations")
