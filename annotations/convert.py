"""The body of `jointrt convert`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DatasetError, MaskError, OutputError, SettingsError
from ..runtime.job.run import Display
from .sources import MaskSource, open_masks
from .targets import FOLDERS, WRITERS, Target


@dataclass(frozen=True, slots=True)
class ConvertRequest:
    """What `jointrt convert` was asked for.

    Attributes:
        masks: what is read; see `open_masks`.
        out: file or folder, which must not be there.
        to: what is written, of `Target`.
        frames: folder of the images, where reading needs it.
        names: of the objects by id, in the place of those that are read.
    """

    masks: Path
    out: Path
    to: str
    frames: Path | None = None
    names: dict[int, str] | None = None


def parse_names(text: str) -> dict[int, str]:
    """`1=dog,2=woman`, or `dog,woman` for the ids from 1 on.

    Raises:
        SettingsError: an id is none of 1 to 255, or a name is empty or given twice.
    """
    names: dict[int, str] = {}
    for place, part in enumerate(text.split(","), 1):
        head, mark, tail = part.partition("=")
        name = (tail if mark else head).strip()
        number = head.strip() if mark else str(place)
        if not number.isascii() or not number.isdigit() or not 0 < int(number) < 256 or not name:
            raise SettingsError(f"--names has {part!r}: expected ID=NAME with an id from 1 to 255, or NAME")
        if int(number) in names or name in names.values():
            raise SettingsError(f"--names has {part.strip()!r} twice: expected every id and name once")
        names[int(number)] = name
    return names


def convert(request: ConvertRequest, display: Display) -> int:
    """Write a film's label maps in another form; it appears whole or not at all.

    Returns:
        The number of frames.

    Raises:
        DatasetError: what is read is damaged, or holds no frame.
        DependencyError: what reads or writes it is not installed.
        MaskError: a mask cannot be read, or their sizes differ.
        OutputError: `out` is there already, or cannot be written.
        SettingsError: there is no such form.
    """
    if request.to not in list(Target):
        raise SettingsError(f"--to is {request.to!r}: expected one of {', '.join(Target)}")
    target = Target(request.to)
    if request.out.exists():
        raise OutputError(f"{request.out} is there already: choose another --out, or move it away")
    source = open_masks(request.masks, request.frames)
    for note in source.notes:
        display.note(note)
    objects = source.objects if request.names is None else request.names
    count = [0]
    aside = request.out.with_name(f".{request.out.name}.part")
    try:
        _clear(aside)
        aside.parent.mkdir(parents=True, exist_ok=True)
        if target in FOLDERS:
            aside.mkdir()
        WRITERS[target](aside, _counted(source, display, count), objects)
        aside.replace(request.out)
    except OSError as error:
        raise OutputError(f"{request.out} cannot be written: {error.strerror or error}") from None
    finally:
        _clear(aside)
    return count[0]


def _clear(aside: Path) -> None:
    if aside.is_dir():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)


def _counted(source: MaskSource, display: Display, count: list[int]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The frames, told to the display; all of one size."""
    size: tuple[int, ...] | None = None
    display.begin(len(source.names) or None, 0)
    for name, labels in source.frames():
        size = size or labels.shape
        if labels.shape != size:
            raise MaskError(
                f"frame {name} has a mask of {labels.shape[1]}x{labels.shape[0]}, those before {size[1]}x{size[0]}: "
                "expected one size"
            )
        yield name, labels
        count[0] += 1
        display.advance()
    if not count[0]:
        raise DatasetError("there is no frame in what is read: expected masks of at least one")
