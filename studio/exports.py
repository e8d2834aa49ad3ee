"""What leaves the studio: masks, videos, cut-outs and annotations, each one file."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

from ..annotations.targets import WRITERS, Target, write_coco
from ..errors import OutputError, SettingsError
from ..runtime.video.masks import davis_palette
from ..runtime.video.overlay import TINT
from ..runtime.video.sources import Frame, for_ffmpeg
from .frames import FrameCache
from .project import Labels, Project, colours

Advance = Callable[[int], bool]
"""Told the frames that are done; says whether to go on."""


class Kind(StrEnum):
    """What can be saved."""

    MASKS = "masks.zip"
    OVERLAY = "overlay.mp4"
    PRORES = "cutout.mov"
    VP9 = "cutout.webm"
    PNGS = "cutout.zip"
    COCO = "coco.json"
    YOLO = "yolo.zip"
    PROJECT = "project.zip"


class Stopped(Exception):
    """The person pressed stop."""


def export(kind: Kind, frames: FrameCache, project: Project, folder: Path, advance: Advance) -> Path:
    """Write one file aside and rename it; of frames without masks, videos show what there is.

    Raises:
        DependencyError: pycocotools or supervision is not installed.
        OutputError: it cannot be written.
        SettingsError: there is no mask yet.
        Stopped: `advance` said so; nothing is left then.
    """
    if not project.frames():
        raise SettingsError("there is no mask to save yet: click on an object first")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / kind.value
    aside = folder / f".part-{kind.value}"
    try:
        _WRITERS[kind](aside, frames, project, advance)
        aside.replace(target)
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"{target} cannot be written: {error}") from None
    finally:
        aside.unlink(missing_ok=True)
    return target


def count_of(kind: Kind, frames: FrameCache, project: Project) -> int:
    """Frames that an export goes over: all, or those that have masks."""
    whole = kind in (Kind.OVERLAY, Kind.PRORES, Kind.VP9, Kind.PNGS)
    return frames.count if whole else len(project.frames())


def _go_on(advance: Advance, done: int) -> None:
    if not advance(done):
        raise Stopped


def _pairs(frames: FrameCache, project: Project, advance: Advance) -> Iterator[tuple[Frame, Labels]]:
    for done, frame in enumerate(frames.source.frames(), 1):
        yield frame, project.labels(frame.index)
        _go_on(advance, done)


def _masks(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    palette = davis_palette()
    table = colours(project.record.objects)
    for item in project.record.objects:
        palette[item.id] = table[item.id]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for done, index in enumerate(project.frames(), 1):
            image = Image.fromarray(project.labels(index))
            image.putpalette(palette.tobytes())
            archive.writestr(f"{frames.source.name(index)}.png", _encoded(image))
            _go_on(advance, done)


def _pngs(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for frame, labels in _pairs(frames, project, advance):
            archive.writestr(f"{frame.name}.png", _encoded(Image.fromarray(_cut_out(frame, labels))))


def _cut_out(frame: Frame, labels: Labels) -> Any:
    alpha = np.where(labels > 0, np.uint8(255), np.uint8(0))
    return np.dstack((frame.image, alpha))


def _encoded(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def _overlay(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    table = colours(project.record.objects)

    def drawn(frame: Frame, labels: Labels) -> Any:
        mixed = cv2.addWeighted(frame.image, 1 - TINT, table[labels], TINT, 0)
        return np.where((labels > 0)[..., None], mixed, frame.image)

    _video(path, "mp4", "libx264", "yuv420p", "rgb24", {"crf": "18"}, drawn, frames, project, advance)


def _prores(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    options = {"profile": "4444", "vendor": "apl0"}
    _video(path, "mov", "prores_ks", "yuva444p10le", "rgba", options, _cut_out, frames, project, advance)


def _vp9(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    options = {"crf": "24", "b": "0", "deadline": "good", "cpu-used": "6", "auto-alt-ref": "0"}
    _video(path, "webm", "libvpx-vp9", "yuva420p", "rgba", options, _cut_out, frames, project, advance)


def _video(
    path: Path,
    container: str,
    codec: str,
    pixels: str,
    given: str,
    options: dict[str, str],
    draw: Callable[[Frame, Labels], Any],
    frames: FrameCache,
    project: Project,
    advance: Advance,
) -> None:
    """Pictures of a constant rate, odd sides repeated by one pixel where 4:2:0 asks for even ones."""
    width, height = frames.size
    with av.open(for_ffmpeg(path, "wb"), "w", format=container) as output:
        stream: Any = output.add_stream(
            codec, rate=Fraction(frames.source.rate).limit_denominator(65535), options=options
        )
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, pixels
        for frame, labels in _pairs(frames, project, advance):
            image = np.pad(draw(frame, labels), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=given)))
        output.mux(stream.encode())


def _labelled(frames: FrameCache, project: Project, advance: Advance) -> Iterator[tuple[str, Labels]]:
    for done, index in enumerate(project.frames(), 1):
        yield frames.source.name(index), project.labels(index)
        _go_on(advance, done)


def _names(project: Project) -> dict[int, str]:
    return {item.id: item.name for item in project.record.objects}


def _coco(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    write_coco(path, _labelled(frames, project, advance), _names(project))


def _yolo(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as name,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        WRITERS[Target.YOLO](Path(name), _labelled(frames, project, advance), _names(project))
        for file in sorted(Path(name).rglob("*")):
            archive.write(file, file.relative_to(name))


def _project(path: Path, frames: FrameCache, project: Project, advance: Advance) -> None:
    project.save()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(project.folder / "project.json", "project.json")
        for done, index in enumerate(project.frames(), 1):
            archive.write(project.folder / "masks" / f"{index:06d}.png", f"masks/{index:06d}.png")
            _go_on(advance, done)


_WRITERS = {
    Kind.MASKS: _masks,
    Kind.OVERLAY: _overlay,
    Kind.PRORES: _prores,
    Kind.VP9: _vp9,
    Kind.PNGS: _pngs,
    Kind.COCO: _coco,
    Kind.YOLO: _yolo,
    Kind.PROJECT: _project,
}
