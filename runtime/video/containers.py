"""What a video file's own structure says: whether its index lists every packet, and whether the file ends too early.

Counts and durations in headers are told, but not trusted: an edit, a recorder that stopped or a tool that copied a
header leave them as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MP4 = "mov,mp4,m4a,3gp,3g2,mj2"
AVI = "avi"
"""FFmpeg's names of the containers that have an index."""
MATROSKA_MAGIC = bytes.fromhex("1a45dfa3")
SEGMENT_MAGIC = bytes.fromhex("18538067")
VOID_MAGIC = b"\xec"
MP4_MAGIC = b"ftyp"
"""At byte 4."""
GIF_MAGIC = b"GIF8"
GIF_TRAILER = b"\x3b"
UNFINISHED = (0, 0xFFFFFFFF)
"""Lengths in a RIFF header that a recorder fills in when it ends."""


@dataclass(frozen=True, slots=True)
class Structure:
    """Of a video file.

    Attributes:
        indexed: whether the index, as FFmpeg has it when the file is opened, lists every packet.
        cut: whether the file ends before its structure does; False where that shows only in missing packets.
    """

    indexed: bool
    cut: bool


def structure_of(path: Path, container: str, last_indexed: int | None) -> Structure:
    """Look at a file's outermost parts.

    Args:
        path: the file.
        container: FFmpeg's name of it.
        last_indexed: place of the last packet that the index lists; None if it lists none.
    """
    with path.open("rb") as stream:
        length = stream.seek(0, 2)
        if container == MP4:
            return _mp4(stream, length, last_indexed)
        if container == AVI:
            return _avi(stream, length, last_indexed)
        stream.seek(0)
        head = stream.read(1 << 12)
        if head.startswith(MATROSKA_MAGIC):
            return Structure(False, _segment_ends_late(head, length))
        if head.startswith(GIF_MAGIC):
            stream.seek(max(0, length - (1 << 12)))
            return Structure(False, not stream.read().rstrip(b"\0").endswith(GIF_TRAILER))
    return Structure(False, False)


def _mp4(stream: IO[bytes], length: int, last_indexed: int | None) -> Structure:
    """ISO/IEC 14496-12: boxes of a length and a type; a film in fragments has an index in front of each (`moof`)."""
    boxes = list(_boxes(stream, length))
    fragments = [place for kind, place, _ in boxes if kind == b"moof"]
    if not fragments:
        return Structure(last_indexed is not None, False)
    return Structure(last_indexed is not None and last_indexed > fragments[-1], boxes[-1][2] > length)


def _boxes(stream: IO[bytes], length: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, beginning and end of the outermost boxes."""
    place = 0
    while place + 8 <= length:
        stream.seek(place)
        head = stream.read(16)
        size, kind = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        elif size == 0:
            size = length - place
        if size < 8:
            return
        yield kind, place, place + size
        place += size


def _avi(stream: IO[bytes], length: int, last_indexed: int | None) -> Structure:
    """RIFF: chunks of a type, a length and contents to an even place.

    The pictures are in the list `movi`, the index is the chunk `idx1` behind it, or `indx` in the header; films over
    1 GiB go on in further RIFF chunks.
    """
    indexed, cut, place = False, False, 12
    while place + 12 <= length:
        stream.seek(place)
        head = stream.read(12)
        size = int.from_bytes(head[4:8], "little")
        end = place + 8 + size
        if head[8:] == b"hdrl" and b"indx" in stream.read(min(size, 1 << 16)):
            indexed = True
        if head[:4] == b"idx1":
            indexed = end <= length
        if head[8:] in (b"movi", b"AVIX"):
            cut = size not in UNFINISHED and end > length
        place = end + size % 2
    return Structure(indexed and last_indexed is not None, cut and not indexed)


def _segment_ends_late(head: bytes, length: int) -> bool:
    """Whether a Matroska segment reaches beyond a file's length; the duration in a tag may be that of another cut.

    RFC 8794: an element is its id, its length as a number of 1 to 8 bytes whose leading zero bits count them, and its
    contents; all ones mean that the length is not known.
    """
    place, size = _element_length(head, 4)
    while size is not None and head[place + size : place + size + 1] == VOID_MAGIC:
        place, size = _element_length(head, place + size + 1)
    if size is None or head[place + size : place + size + 4] != SEGMENT_MAGIC:
        return False
    place, size = _element_length(head, place + size + 4)
    return size is not None and place + size > length


def _element_length(data: bytes, place: int) -> tuple[int, int | None]:
    """Where an element's contents begin, and how long they are; None if that is not known."""
    width = 9 - data[place].bit_length() if place < len(data) else 9
    if width > 8:
        return place, None
    value = int.from_bytes(data[place : place + width], "big") & ((1 << 7 * width) - 1)
    return place + width, None if value == (1 << 7 * width) - 1 else value
