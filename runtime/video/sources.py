"""Where frames come from: a video file through PyAV, or a folder of images."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import sys
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import IO, Any, Literal, Protocol
from zlib import crc32

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ...errors import VideoError
from .containers import AVI, MATROSKA_MAGIC, MP4, MP4_MAGIC, structure_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
FOLDER_RATE = Fraction(24)
"""Frames per second of a folder of images, which has none of its own; DAVIS films are shown at 24."""
MOST_STRAYS = 0.2
"""Share of a folder's images up to which those that are named otherwise are taken for no frames."""
MAX_PIXELS = 1 << 28
"""Larger images and frames are refused before they are decoded."""
MOST_HELD = 1 << 29
"""Bytes of a film's frames that are held at a time where it is read backwards."""
FINEST_TICKS = 1_000_000
"""Ticks per second beyond which a common multiple of frame rate and time base is not formed."""
TEXT_FORMATS = {"tty", "bin", "xbin", "adf", "idf"}
"""FFmpeg demuxers that draw any text file as pictures."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame.

    Attributes:
        index: its number in the source, from 0.
        name: what its mask is called, without suffix.
        image: (H, W, 3) uint8, RGB, upright.
        time: seconds since the source's zero.
        duration: seconds.
    """

    index: int
    name: str
    image: NDArray[np.uint8]
    time: Fraction
    duration: Fraction


class Source(Protocol):
    """Frames in order, as often as asked.

    Attributes:
        size: (height, width) of every frame, upright.
        count: number of frames; None if the source does not say.
        rate: frames per second.
        time_base: seconds of which every frame's time is a whole multiple.
        pixel_aspect: width over height of a pixel.
        damage: after a complete pass, what was wrong with the file; None if nothing.
        notes: what the user should know of how the source was read.
    """

    size: tuple[int, int]
    count: int | None
    rate: Fraction
    time_base: Fraction
    pixel_aspect: Fraction
    damage: str | None
    notes: tuple[str, ...]

    @property
    def path(self) -> Path | str:
        """The file or folder, or what a live source is called."""

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Iterator[Frame]:
        """Every `every`-th frame from number `start` up to and without number `stop`.

        Raises:
            VideoError: a frame cannot be read or has another size.
        """

    def backwards(self, last: int, first: int = 0, every: int = 1) -> Iterator[Frame]:
        """Frame number `last` and every `every`-th one before it, down to number `first` at most, in that order.

        Raises:
            VideoError: as of `frames`, or there is no frame `last`.
        """

    def name(self, index: int) -> str:
        """What the mask of a frame is called, without suffix."""

    def index_of(self, name: str) -> int | None:
        """The reverse of `name`; None if no frame can be called so."""

    def fingerprint(self) -> str:
        """Hex digest that changes with the contents, not with the place."""


def open_source(path: str | Path, *, exclude: Path | None = None) -> VideoFile | ImageFolder:
    """Open a video file or a folder of images.

    Args:
        path: the file or folder.
        exclude: an image in the folder that is no frame, such as the first mask.

    Raises:
        VideoError: there is no such file, it is not a video, or it holds no frame.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return ImageFolder(path, exclude=exclude)
        if path.is_file():
            return VideoFile(path)
        found = instead_of_a_file(path)
    except OSError as error:
        raise VideoError(f"{path} cannot be read: {error.strerror or error}") from None
    raise VideoError(f"{found}: expected a video file or a folder of images")


def instead_of_a_file(path: Path) -> str:
    """A path that is no file, and what it is, in words."""
    if str(path) == "-":
        return "- stands for the standard input, which `jointrt run` alone reads"
    if address := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/+(.*)", str(path)):
        # A path has lost one of the two slashes.
        return f"{address[1]}://{address[2]} is an address, which `jointrt run` alone reads: download it first"
    if path.is_fifo():
        return f"{path} is a pipe, which `jointrt run` alone reads, as its standard input: write it to a file first"
    if path.is_dir():
        return f"{path} is a folder"
    return f"{path} is neither a file nor a folder" if path.exists() else f"{path} does not exist"


def _same(path: Path, other: Path) -> bool:
    """Whether two names are of one file, links included."""
    with contextlib.suppress(OSError):
        return path.samefile(other)
    return False


class VideoFile:
    """The first video stream of a file; rotation metadata is applied, times are the stream's own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: str | None = None
        self.notes: tuple[str, ...] = ()
        with _open_container(path) as container:
            stream = video_stream(container, path)
            self.count: int | None = None
            self._packets: int | None = None
            entries = _listed(stream)
            structure = structure_of(path, container.format.name, entries[-1].pos if entries else None)
            self._cut = structure.cut
            if structure.indexed:
                # The header's count is not asked: an edit list presents fewer, and chunks may be empty.
                self.count, self._packets = sum(not entry.is_discard for entry in entries), len(entries)
            self._announced = self.count or stream.frames or _announced(stream)
            self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
            self._ticks = Fraction(stream.time_base)
            ticks = math.lcm(self.rate.numerator, self._ticks.denominator)
            self._on_grid = ticks <= FINEST_TICKS
            self.time_base = Fraction(1, ticks) if self._on_grid else self._ticks
            aspect = Fraction(stream.sample_aspect_ratio or 1)
            first = next(Decoding(container, stream).frames(), None)
            if first is None:
                raise VideoError(f"{path} holds no frame that can be decoded: it is empty, truncated or damaged")
            matrix = orientation(first)
            image = upright(first, matrix, VideoReformatter())
            self.size: tuple[int, int] = (image.shape[0], image.shape[1])
            turned = matrix[0, 0] == 0
            self.pixel_aspect = 1 / aspect if turned else aspect

    def name(self, index: int) -> str:
        """Five digits or more: `00000`."""
        return f"{index:05d}"

    def index_of(self, name: str) -> int | None:
        """The number that a name is; None if it is none or lies beyond the announced end."""
        if not (name.isascii() and name.isdigit()):
            return None
        index = int(name)
        return index if self.count is None or index < self.count else None

    def fingerprint(self) -> str:
        """Digest of the file's length, first and last mebibyte."""
        digest = hashlib.sha256()
        digest_ends(self.path, 1 << 20, digest)
        return digest.hexdigest()

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Iterator[Frame]:
        """See `Source.frames`; a damaged file gives the frames that can be decoded, and `damage` tells of the rest."""
        yield from self._read(range(start, sys.maxsize if stop is None else stop, every))

    def _read(self, wanted: range, marks: Marks | None = None, begin: int = 0) -> Iterator[Frame]:
        """The wanted frames, going up.

        Args:
            wanted: their numbers.
            marks: are made where decoding starts with the first frame, and compared where it does not.
            begin: a marked key frame, from which decoding starts; 0 for the first frame.

        Raises:
            Astray: frames met from there on are not those that are marked.
            VideoError: a frame has another size.
        """
        self.damage = None
        index, last = begin - 1, None
        with _open_container(self.path) as container:
            stream = video_stream(container, self.path)
            decoding, reformatter = Decoding(container, stream), VideoReformatter()
            pictures = marks.frames_from(begin, decoding) if marks and begin else decoding.frames()
            for index, picture in enumerate(pictures, begin):
                if index >= wanted.stop:
                    return
                if marks is not None and not begin:
                    marks.add(picture)
                time, duration = self._time(picture, last)
                last = time + duration
                if index not in wanted:
                    continue
                image = upright(picture, orientation(picture), reformatter)
                if image.shape[:2] != self.size:
                    raise VideoError(
                        f"{self.path}: frame {index} is {image.shape[1]}x{image.shape[0]}, those before were "
                        f"{self.size[1]}x{self.size[0]}: expected one size; cut the video where it changes"
                    )
                yield Frame(index, self.name(index), image, time, duration)
        self._assess(decoding, index + 1)

    def backwards(self, last: int, first: int = 0, every: int = 1) -> Iterator[Frame]:
        """See `Source.backwards`.

        A film is decoded forwards only, so many frames at a time as `MOST_HELD` bytes hold: from the key frame before
        them, or anew from the film's beginning where seeking does not lead there.
        """
        numbers = range(last, first - 1, -every)
        height, width = self.size
        length = max(1, MOST_HELD // (3 * height * width))
        marks: Marks | None = None
        for start in range(0, len(numbers), length):
            part = numbers[start : start + length]
            held = self._held(range(part[-1], part[0] + 1, every), marks)
            if held is None:
                # Those of the first part are of all frames before it; a film of one part needs none.
                new = Marks() if marks is None and start + length < len(numbers) else None
                held = list(self._read(range(part[-1], part[0] + 1, every), new))
                marks = marks or new
            if len(held) < len(part):
                raise VideoError(
                    f"{self.path}: frame {part[0]} cannot be read: {self.damage or 'the video ends before it'}"
                )
            while held:
                yield held.pop()

    def _held(self, wanted: range, marks: Marks | None) -> list[Frame] | None:
        """The wanted frames, decoded from the key frame before them; None if seeking does not lead there."""
        key = marks.key_before(wanted[0]) if marks is not None else 0
        if not key:
            return None
        try:
            return list(self._read(wanted, marks, key))
        except (Astray, av.error.FFmpegError):
            return None

    def _time(self, picture: av.VideoFrame, expected: Fraction | None) -> tuple[Fraction, Fraction]:
        """Presentation time and duration in seconds.

        A container with a coarse clock (Matroska: milliseconds) rounds the times of a constant frame rate: a time that
        is such a rounded one is given as what it was.
        """
        duration = picture.duration * self._ticks if picture.duration else 1 / self.rate
        if picture.pts is None:
            return expected or Fraction(0), duration
        time = picture.pts * self._ticks
        if self._on_grid:
            ideal = round(time * self.rate) / self.rate
            if abs(ideal - time) <= self._ticks / 2:
                time = ideal
            if abs(1 / self.rate - duration) < self._ticks:
                duration = 1 / self.rate
        return time, duration

    def _assess(self, decoding: Decoding, read: int) -> None:
        missing = self._packets is not None and decoding.packets < self._packets
        if missing or self._cut or decoding.damaged:
            of = f"of its {self._announced} frames" if self._announced and self._announced > read else "frames"
            self.damage = f"{self.path} is truncated or damaged: {read} {of} could be read"


def digest_ends(file: Path, size: int, digest: hashlib._Hash) -> None:
    """Add a file's length, and its first and last bytes, so many of each."""
    with file.open("rb") as stream:
        length = stream.seek(0, 2)
        digest.update(f"{length}\n".encode())
        for place in (0, max(0, length - size)):
            stream.seek(place)
            digest.update(stream.read(size))


class Decoding:
    """One pass over a stream that goes on behind what cannot be decoded.

    Attributes:
        packets: packets met so far.
        damaged: packets or pictures lost so far.
        broken: whether the container itself could not be read on.
    """

    def __init__(self, container: Any, stream: Any) -> None:
        self.container = container
        self.stream = stream
        self.packets = 0
        self.damaged = 0
        self.broken = False

    def frames(self) -> Iterator[av.VideoFrame]:
        """Pictures in the order of showing."""
        # Decoding runs beside the inference: more threads would take its cores.
        self.stream.codec_context.thread_count = 1
        clean = False
        for packet in self._packets():
            try:
                pictures = packet.decode()
            except av.error.FFmpegError:
                self.damaged += 1
                continue
            for picture in pictures:
                if picture.is_corrupt:
                    # A recording that begins between key frames begins with some.
                    self.damaged += clean
                    continue
                clean = True
                yield picture

    def _packets(self) -> Iterator[Any]:
        while True:
            try:
                for packet in self.container.demux(self.stream):
                    self.packets += bool(packet.size)
                    yield packet
            except av.error.FFmpegError:
                self.damaged += 1
                self.broken = True
            except IndexError:
                # PyAV knows only the streams that were there at first; behind this packet of another it goes on.
                continue
            return


class Marks:
    """By which frames are known again, from the first on: their times and brightness, and which are key frames."""

    def __init__(self) -> None:
        self._ticks: list[int] = []
        self._sums: list[int] = []
        self._keys: list[int] = []
        self._rising = True

    def add(self, picture: av.VideoFrame) -> None:
        """Mark the next frame."""
        if picture.key_frame:
            self._keys.append(len(self._ticks))
        if picture.pts is None or (self._ticks and picture.pts <= self._ticks[-1]):
            self._rising = False
        self._ticks.append(picture.pts or 0)
        self._sums.append(_checksum(picture))

    def key_before(self, index: int) -> int:
        """The last key frame at or before a frame; 0 where times are missing or fall, so that none is known again."""
        place = bisect_right(self._keys, index)
        return self._keys[place - 1] if place and self._rising else 0

    def frames_from(self, key: int, decoding: Decoding) -> Iterator[av.VideoFrame]:
        """Pictures from a key frame on.

        Raises:
            Astray: one is not what is marked, or the key frame is not met.
        """
        sought = self._ticks[key]
        decoding.container.seek(sought, stream=decoding.stream)
        # An earlier key frame may be met first, and pictures that are shown before the one that is sought.
        pictures = dropwhile(lambda picture: picture.pts is not None and picture.pts < sought, decoding.frames())
        for picture, ticks, total in zip(pictures, self._ticks[key:], self._sums[key:], strict=False):
            if picture.pts != ticks or _checksum(picture) != total:
                raise Astray
            yield picture
        raise Astray


class Astray(Exception):
    """Seeking led to other frames than those that were met before."""


def _checksum(picture: av.VideoFrame) -> int:
    """Of the first plane, which of most formats is the brightness, without the padding of its rows."""
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, abs(plane.line_size))[:, : plane.width]
    return crc32(rows.tobytes())


def _open_container(path: Path) -> Any:
    try:
        container = av.open(for_ffmpeg(path, "rb"), metadata_errors="replace")
    except av.error.FFmpegError as error:
        if isinstance(error, PermissionError):
            raise VideoError(f"{path} cannot be read: permission denied") from None
        if path.stat().st_size == 0:
            raise VideoError(f"{path} is empty: expected a video") from None
        with path.open("rb") as stream:
            head = stream.read(12)
        if head[:4] == MATROSKA_MAGIC:
            raise VideoError(f"{path} is a Matroska file that holds no frame: it is empty or truncated") from None
        if head[4:8] == MP4_MAGIC:
            raise VideoError(
                f"{path} is a truncated MP4: its index, written last, is missing, so 0 frames can be read; copy or "
                "record it again"
            ) from None
        raise VideoError(f"{path} is not a video: expected a file that FFmpeg reads, or a folder of images") from None
    name = container.format.name
    if name in TEXT_FORMATS:
        container.close()
        raise VideoError(f"{path} is not a video but text: expected a file that FFmpeg reads, or a folder of images")
    if name.endswith("_pipe") or name == "image2":
        container.close()
        raise VideoError(f"{path} is not a video but {_pictures_in(path)}")
    return container


def for_ffmpeg(path: Path, mode: Literal["rb", "wb"]) -> str | IO[bytes]:
    """What `av.open` takes: an address that no character of a name changes; where the name is no text, the file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.open(mode)
    return f"file:{path}"


def _pictures_in(path: Path) -> str:
    """What an image file holds, in words, and what to do."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError), Image.open(path) as image:
        if (count := getattr(image, "n_frames", 1)) > 1:
            return (
                f"a {image.format} of {count} pictures, which is not read: save them as a video or a folder of images"
            )
    return "a single image: expected a video or the folder of images"


def video_stream(container: Any, path: Path | str) -> Any:
    """The first stream of pictures that is no cover.

    Raises:
        VideoError: there is none, it cannot be decoded, or its frames are too large.
    """
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        found = "only other streams" if len(container.streams) else "no stream"
        raise VideoError(f"{path} holds no frame: expected a video stream, found {found}")
    context = streams[0].codec_context
    if context is None:
        raise VideoError(f"{path} is coded in a way that this FFmpeg cannot decode: convert it, to H.264 in MP4 say")
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(f"{path} is {context.width}x{context.height}: expected frames of at most {MAX_PIXELS} pixels")
    # A stream may grow in its middle; FFmpeg counts whole blocks.
    context.options = {"max_pixels": str(2 * MAX_PIXELS)}
    return streams[0]


def _announced(stream: Any) -> int | None:
    """Frames by the duration that Matroska writes into a tag, as hours:minutes:seconds; told, but not trusted."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if found is None:
        return None
    hours, minutes, seconds = found.groups()
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    return round((int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)) * rate)


def _listed(stream: Any) -> list[Any]:
    """Entries of a container's index that hold data; empty where it has none."""
    if stream.container.format.name not in (MP4, AVI):
        return []
    return [entry for entry in stream.index_entries if entry.size]


def orientation(picture: av.VideoFrame) -> NDArray[np.int64]:
    """Signs of the display matrix's upper left 2x2, [[a, b], [c, d]]: x' = a x + c y, y' = b x + d y.

    FFmpeg's `libavutil/display.h` gives the layout: nine int32, row by row.
    """
    # The picture's own `side_data` would refer back to it: pictures would wait for Python's search for cycles.
    container: Any = SideDataContainer
    data: Any = container(picture).get("DISPLAYMATRIX")
    if data is None:
        return np.eye(2, dtype=np.int64)
    matrix = np.frombuffer(bytes(data), np.int32)[:9].reshape(3, 3)[:2, :2].astype(np.int64)
    level = abs(matrix[0, 0]) >= abs(matrix[0, 1])
    return np.sign(matrix) * (np.eye(2, dtype=np.int64) if level else 1 - np.eye(2, dtype=np.int64))


def upright(picture: av.VideoFrame, matrix: NDArray[np.int64], reformatter: VideoReformatter) -> NDArray[np.uint8]:
    """A decoded picture as (H, W, 3) uint8 RGB, turned as `matrix` (see `orientation`) says."""
    # A picture's own method would start a pool of threads for it alone.
    image = np.asarray(reformatter.reformat(picture, format="rgb24", threads=1).to_ndarray(), np.uint8)
    if matrix[0, 0] or matrix[1, 1]:
        flip_x, flip_y = matrix[0, 0] < 0, matrix[1, 1] < 0
    else:
        image = image.transpose(1, 0, 2)
        flip_x, flip_y = matrix[1, 0] < 0, matrix[0, 1] < 0
    if flip_x:
        image = image[:, ::-1]
    if flip_y:
        image = image[::-1]
    return np.ascontiguousarray(image)


def _alike(images: list[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Those of a folder's images that are frames, in their order, and a note where there are others.

    Names follow a pattern, digits aside. Images of other patterns are no frames where they are few, have no number, or
    are masks where the frames are not.
    """
    by_pattern: dict[str, list[Path]] = {}
    for image in images:
        by_pattern.setdefault(_pattern(image.stem), []).append(image)
    if len(by_pattern) < 2:
        return images, ()
    like_masks = {pattern for pattern, files in by_pattern.items() if _like_a_mask(files[0])}
    numbered = [pattern for pattern in by_pattern if "#" in pattern]
    if not numbered:
        return images, ()
    few = MOST_STRAYS * len(images)
    pattern = max(
        numbered, key=lambda name: (name not in like_masks and len(by_pattern[name]) > few, len(by_pattern[name]))
    )
    # Of copies, the first often has no number: `image`, `image (1)`.
    others = {name: files for name, files in by_pattern.items() if _letters(name) != _letters(pattern)}
    masks = [f for name, files in others.items() if name in like_masks and pattern not in like_masks for f in files]
    unnumbered = [f for name, files in others.items() if "#" not in name for f in files]
    numbered_otherwise = [f for name, files in others.items() if "#" in name for f in files]
    out = set(masks)
    if len(unnumbered) < len(by_pattern[pattern]):
        out.update(unnumbered)
    if len(numbered_otherwise) <= few:
        out.update(numbered_otherwise)
    if not out:
        counts = [f"{len(files)} like {name}" for name, files in by_pattern.items()]
        listed = ", ".join(counts[:3]) + (f" and {len(counts) - 3} more kinds" if len(counts) > 3 else "")
        return images, (f"all {len(images)} images are taken as frames, though their names differ: {listed}",)
    stray = [image for image in images if image in out]
    frames = [image for image in images if image not in out]
    left = ", ".join(p.name for p in stray[:3]) + (f" and {len(stray) - 3} more" if len(stray) > 3 else "")
    return frames, (f"{len(frames)} images named like {pattern} are the frames; left out: {left}",)


def _pattern(name: str) -> str:
    """A name with `#` for its numbers, circled ones and other scripts' included."""
    return re.sub("#+", "#", "".join("#" if c.isnumeric() else c for c in name))


def _letters(pattern: str) -> str:
    return "".join(filter(str.isalpha, pattern)).lower()


def _like_a_mask(file: Path) -> bool:
    """Whether an image is a PNG with a palette or one channel; False where that cannot be told."""
    with contextlib.suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError), Image.open(file) as image:
        return image.format == "PNG" and (image.mode in ("1", "L", "P") or image.mode.startswith("I"))
    return False


class ImageFolder:
    """Images in natural order (`2.jpg` before `10.jpg`), as frames at `FOLDER_RATE`; EXIF rotation is applied."""

    def __init__(self, path: Path, *, exclude: Path | None = None) -> None:
        self.path = path
        self.damage: str | None = None
        images = sorted(
            (p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")),
            key=lambda p: natural_key(p.name),
        )
        if exclude is not None:
            images = [p for p in images if not _same(p, exclude)]
        for image in images:
            if not image.is_file():
                raise VideoError(f"{instead_of_a_file(image)}: expected an image")
        self.files, self.notes = _alike(images)
        if not self.files:
            raise VideoError(f"{path} holds no frame: expected images ({', '.join(IMAGE_SUFFIXES)})")
        self._indices = {file.stem: index for index, file in enumerate(self.files)}
        if len(self._indices) < len(self.files):
            twins = next(a for a in self.files if self.files[self._indices[a.stem]] != a)
            other = self.files[self._indices[twins.stem]]
            raise VideoError(f"{path} holds {twins.name} and {other.name}: their masks would have one name; keep one")
        self.count: int | None = len(self.files)
        self.rate = FOLDER_RATE
        self.time_base = 1 / FOLDER_RATE
        self.pixel_aspect = Fraction(1)
        self.size = _upright_size(self.files[0])
        for file in self.files:
            size = _upright_size(file)
            if size != self.size:
                raise VideoError(
                    f"{file} is {size[1]}x{size[0]}, {self.files[0].name} is {self.size[1]}x{self.size[0]}: expected "
                    "images of one size"
                )

    def name(self, index: int) -> str:
        """The image's name without suffix."""
        return self.files[index].stem

    def index_of(self, name: str) -> int | None:
        """The place of the image so called; None if there is none."""
        return self._indices.get(name)

    def fingerprint(self) -> str:
        """Digest of the images' names, lengths, and first and last 4 KiB."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(os.fsencode(file.name) + b"\n")
            digest_ends(file, 1 << 12, digest)
        return digest.hexdigest()

    def frames(self, start: int = 0, stop: int | None = None, every: int = 1) -> Iterator[Frame]:
        """See `Source.frames`."""
        for index in range(start, len(self.files) if stop is None else min(stop, len(self.files)), every):
            file = self.files[index]
            image = read_image(file)
            if image.shape[:2] != self.size:
                raise VideoError(
                    f"{file} is {image.shape[1]}x{image.shape[0]} when turned by its EXIF data, the others are "
                    f"{self.size[1]}x{self.size[0]}: expected images of one size"
                )
            yield Frame(index, file.stem, image, index * self.time_base, self.time_base)

    def backwards(self, last: int, first: int = 0, every: int = 1) -> Iterator[Frame]:
        """See `Source.backwards`."""
        for index in range(last, first - 1, -every):
            yield from self.frames(index, index + 1)


def read_image(file: Path) -> NDArray[np.uint8]:
    """An image, (H, W, 3) uint8 RGB; EXIF rotation is applied.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        with Image.open(file) as opened:
            return _rgb(ImageOps.exif_transpose(opened), file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file} cannot be read as an image: {error}") from None


def _rgb(image: Image.Image, file: Path) -> NDArray[np.uint8]:
    """(H, W, 3); of 16-bit grey the upper 8 bits, as Pillow itself takes them from 16-bit colour."""
    if image.mode.startswith("I;16"):
        grey = (np.array(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise VideoError(f"{file} holds 32-bit values of unknown range: expected 8 or 16 bits per channel; convert it")
    return np.array(image.convert("RGB"))


def natural_key(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Sorts numbers inside names by their value."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(0, int(part)) if part.isascii() and part.isdigit() else (1, part) for part in parts], name


EXIF_ORIENTATION = 0x0112


def _upright_size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            width, height = image.size
            # Pillow would decode a whole PNG to look for EXIF data behind the pixels.
            looked_at = image.format != "PNG" or "exif" in image.info
            turned = looked_at and image.getexif().get(EXIF_ORIENTATION, 1) >= 5
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{file} cannot be read as an image: {error}") from None
    return (width, height) if turned else (height, width)
