"""Folders of masks per sequence, `FOLDER/SEQUENCE/FRAME.png`: made here or elsewhere, and packed to be handed in."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...errors import DatasetError, OutputError
from ...files import write_whole
from .datasets import ANNOTATIONS, Sequence, few

MADE_WITH = ".made_with.json"
"""File in a finished sequence's folder that says what made its masks."""

EARLIEST = (1980, 1, 1, 0, 0, 0)
"""The earliest date an archive can state; the same contents give the same archive."""

Identity = Mapping[str, Any]
"""What determines the masks of a sequence, as JSON values by name."""


class MaskFolder:
    """Where masks go; a sequence's folder is there only once it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, identities: Mapping[str, Identity], *, resume: bool, overwrite: bool) -> set[str]:
        """Make the folder and look at what it holds.

        Args:
            identities: of the sequences to make, by name.
            resume: keep the sequences that are complete.
            overwrite: remove them.

        Returns:
            Names of the sequences that are complete.

        Raises:
            OutputError: it cannot be written; it holds results that would be lost, or that something else made.
        """
        held = [name for name in identities if (self.path / name).exists()]
        if held and not (resume or overwrite):
            raise OutputError(
                f"{self.path} holds masks of {few(held)}: give --resume to keep and complete, --overwrite to replace "
                "them, or another --out"
            )
        if not overwrite:
            for name in held:
                self._refuse_other_maker(name, identities[name])
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in held if overwrite else ():
                _remove_masks(self.path / name)
        except OSError as error:
            raise self._unwritable(error) from None
        return set() if overwrite else set(held)

    def _refuse_other_maker(self, name: str, identity: Identity) -> None:
        folder = self.path / name
        try:
            made = json.loads((folder / MADE_WITH).read_bytes())
        except (OSError, ValueError):
            made = None
        if not isinstance(made, dict):
            raise OutputError(f"{folder} does not say what made its masks: give --overwrite, or another --out")
        for key, value in identity.items():
            if made.get(key) != value:
                raise OutputError(
                    f"{folder} was made with {key} {made.get(key)}, not {value}: give the same, --overwrite, or "
                    "another --out"
                )

    @contextmanager
    def writing(self, name: str, identity: Identity) -> Iterator[Path]:
        """A folder for the masks of a sequence, which gets its name when the block ends well and goes otherwise.

        Raises:
            OutputError: it cannot be written.
        """
        part = self.path / f".{name}.part"
        try:
            if part.exists():
                shutil.rmtree(part)
            part.mkdir()
            yield part
            (part / MADE_WITH).write_text(json.dumps(dict(identity), indent=1) + "\n", encoding="utf-8")
            part.rename(self.path / name)
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path} cannot be written: {error.strerror or error}; choose another folder with --out"
        )


def _remove_masks(folder: Path) -> None:
    for file in (*folder.glob("*.png"), folder / MADE_WITH):
        file.unlink(missing_ok=True)
    folder.rmdir()


def check_results(folder: Path, sequences: Iterable[Sequence]) -> None:
    """Check that masks made elsewhere are complete.

    Raises:
        DatasetError: a sequence or a required frame is missing, or a mask belongs to no frame; names them.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist: expected a folder of masks, SEQUENCE/FRAME.png")
    sequences = list(sequences)
    absent = [sequence.name for sequence in sequences if not (folder / sequence.name).is_dir()]
    if absent:
        hint = f"; give {folder / ANNOTATIONS}" if (folder / ANNOTATIONS).is_dir() else "; or choose with --sequences"
        raise DatasetError(f"{folder} lacks {len(absent)} of {len(sequences)} sequences: {few(absent)}{hint}")
    for sequence in sequences:
        found = {f.stem for f in (folder / sequence.name).glob("*.png") if not f.name.startswith(".")}
        missing = [frame for frame in sequence.required if frame not in found]
        if missing:
            raise DatasetError(
                f"{folder / sequence.name} lacks {len(missing)} of {len(sequence.required)} masks: {few(missing)}; an "
                "empty mask is a PNG too"
            )
        foreign = sorted(frame for frame in found if sequence.images.index_of(frame) is None)
        if foreign:
            raise DatasetError(
                f"{folder / sequence.name} holds {len(foreign)} masks of no frame of {sequence.name}: {few(foreign)}; "
                f"expected names like {sequence.required[0]}.png"
            )


def write_submission(path: Path, sequences: Iterable[Sequence], masks: Path) -> None:
    """The archive that YouTube-VOS's server takes: `Annotations/SEQUENCE/FRAME.png` of the required frames.

    Args:
        path: the archive.
        sequences: whose masks go in.
        masks: folder of the masks, `SEQUENCE/FRAME.png`.

    Raises:
        OutputError: it cannot be written.
    """

    def write(file: Path) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for sequence in sorted(sequences, key=lambda s: s.name):
                for frame in sequence.required:
                    name = f"{ANNOTATIONS}/{sequence.name}/{frame}.png"
                    # Names of files need not be text.
                    entry = zipfile.ZipInfo(name.encode(errors="backslashreplace").decode(), EARLIEST)
                    entry.external_attr = 0o644 << 16
                    entry.create_system = 3
                    archive.writestr(entry, (masks / sequence.name / f"{frame}.png").read_bytes())

    write_whole(path, write)
