"""What is uploaded: films, and project files, which are data that nobody vouches for."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import zipfile
from pathlib import Path

from fastapi import Request
from pydantic import ValidationError

from ...errors import OutputError, SettingsError
from ...runtime.video.masks import read_label_map
from ..record import Record

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".ts"}
MAX_UPLOAD = 4 << 30
_MAX_RECORD = 256 << 20
_MAX_MASK = 16 << 20
_MASK = re.compile(r"masks/[0-9]{6}\.png")


async def receive(request: Request, root: Path, incoming: Path, name: str) -> str:
    """Take a film into a folder, or a project file into another, aside and renamed.

    Raises:
        OutputError: there is one of that name, or it cannot be written.
        SettingsError: its name is neither a film's nor a project file's, or it is too large.
    """
    suffix = Path(name).suffix.lower()
    if Path(name).name != name or name.startswith(".") or suffix not in {*VIDEO_SUFFIXES, ".zip"}:
        known = ", ".join(sorted(VIDEO_SUFFIXES))
        raise SettingsError(f"{name[:100]!r} is no film's name: expected one of {known}, or .zip for a project")
    if suffix == ".zip":
        incoming.mkdir(parents=True, exist_ok=True)
        root, name = incoming, f"{secrets.token_hex(8)}.zip"
    target = root / name
    if target.exists():
        raise OutputError(f"{name} is there already: open it, or give the film another name")
    too_large = SettingsError(f"the film has over {MAX_UPLOAD} bytes: copy it into {root} instead")
    if int(request.headers.get("content-length", 0)) > MAX_UPLOAD:
        raise too_large
    aside, size = root / f".{secrets.token_hex(8)}.part", 0
    try:
        with aside.open("xb") as stream:
            async for piece in request.stream():
                size += len(piece)
                if size > MAX_UPLOAD:
                    raise too_large
                await asyncio.to_thread(stream.write, piece)
        aside.rename(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        aside.unlink(missing_ok=True)
    return name


def read_record(archive: Path) -> Record:
    """The record of a project file.

    Raises:
        SettingsError: it is none.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            names = [item.filename for item in file.infolist()]
            strange = [name for name in names if name != "project.json" and not _MASK.fullmatch(name)]
            if strange or len(names) != len(set(names)):
                raise SettingsError(f"the project file holds {(strange or names)[0][:80]!r}: expected masks/000000.png")
            return Record.model_validate_json(_bounded(file, "project.json", _MAX_RECORD))
    except (zipfile.BadZipFile, KeyError, OSError, ValidationError, NotImplementedError, RuntimeError):
        raise SettingsError("this is no project file: expected what the studio saves as Project") from None


def bring(archive: Path, folder: Path, size: tuple[int, int]) -> None:
    """Put a project file, as `read_record` takes it, in the place of a project, which is kept beside it.

    Args:
        archive: the file.
        folder: of the project.
        size: the film's width and height.

    Raises:
        SettingsError: a mask is damaged or of another size.
        OutputError: it cannot be written.
    """
    aside = folder.with_name(f".{secrets.token_hex(8)}.part")
    try:
        (aside / "masks").mkdir(parents=True)
        with zipfile.ZipFile(archive) as file:
            for item in file.infolist():
                record = item.filename == "project.json"
                content = _bounded(file, item.filename, _MAX_RECORD if record else _MAX_MASK)
                target = aside / item.filename
                target.write_bytes(content)
                if not record and read_label_map(target, hard=True).shape != size[::-1]:
                    raise SettingsError(
                        f"{item.filename} of the project file is not {size[0]}x{size[1]}, as the film is"
                    )
        if folder.exists():
            kept = next(k for k in range(1, 1 << 20) if not folder.with_name(f"{folder.name}.before{k}").exists())
            folder.rename(folder.with_name(f"{folder.name}.before{kept}"))
        aside.rename(folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError):
        raise SettingsError("the project file is damaged: save it again") from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _bounded(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    with file.open(name) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise SettingsError(f"{name} of the project file has over {most >> 20} MiB")
    return content
