"""The folder that a run writes: what is in it, when it may be written, and how an interrupted run is found again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import OutputError
from ...files import replace_file
from ..video.masks import write_label_map

FRAME_KEY = "frame"
STATE_PREFIX = "state."
PART = re.compile(r"\.([0-9]+(-[0-9]+)?|overlay\.mp4|report\.json|run\.json|resume\.npz)\.part")
"""Names of files that a run writes aside, and leaves where it is killed."""


class OutputFolder:
    """`masks/`, `overlay.mp4`, of a finished run `report.json`, and in `.written` the names of what runs wrote, each
    ended by a NUL; while a run is unfinished, also a record of its settings and the last state of the segmenter that
    was stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.masks = path / "masks"
        self.overlay = path / "overlay.mp4"
        self.record = path / ".run.json"
        self.state = path / ".resume.npz"
        self.summary = path / "report.json"
        self.written = path / ".written"
        self._made: list[Path] = []

    def mask(self, name: str) -> Path:
        """The file of a frame's mask."""
        return self.masks / f"{name}.png"

    def check(self, inputs: Iterable[Path], *, overwrite: bool, resume: bool) -> None:
        """Refuse, before anything is computed, what `begin` could not or should not write over.

        Raises:
            OutputError: the folder cannot be written, holds results, holds nothing to resume, or holds an input.
        """
        for given in inputs:
            resolved = given.resolve()
            if resolved.is_relative_to(self.masks.resolve()) or resolved == self.overlay.resolve():
                raise OutputError(f"{given} lies where the results go: choose another folder with -o")
        existing = self.path
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise OutputError(f"{self.path} cannot be a folder: {existing} is a file; choose another with -o")
        for folder in (existing, self.masks):
            if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
                raise OutputError(f"{folder} cannot be written: permission denied; choose another folder with -o")
        held = self._held()
        if not held or overwrite:
            return
        if not resume:
            unfinished = "--resume to go on, " if self.record.exists() else ""
            raise OutputError(f"{self.path} holds {held}: give {unfinished}--overwrite to replace, or another -o")
        if not self.record.exists():
            raise OutputError(
                f"{self.path} holds {held} and no unfinished run: nothing to resume; --overwrite replaces"
            )

    def _held(self) -> str:
        count = len(list(self.masks.glob("*.png")))
        found = ["1 mask" if count == 1 else f"{count} masks"] if count else []
        others = ["an overlay"] * self.overlay.exists() + ["a report"] * self.summary.exists()
        return " and ".join(found + others)

    def refuse_other_run(self, record: Mapping[str, Any]) -> bool:
        """Compare the unfinished run with this one.

        Returns:
            Whether there is an unfinished run.

        Raises:
            OutputError: it was begun otherwise; says how.
        """
        try:
            begun = json.loads(self.record.read_bytes())
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            begun = None
        if not isinstance(begun, dict):
            raise OutputError(f"{self.record} cannot be read: begin anew with --overwrite")
        for name in {**record, **begun}:
            found, value = begun.get(name), record.get(name)
            if found == value:
                continue
            if name in ("source", "mask", "bundle"):
                raise OutputError(f"{self.path} was begun with another {name}: give the same, or --overwrite")
            raise OutputError(f"{self.path} was begun with {name} {found}, not {value}: give the same, or --overwrite")
        return True

    def begin(self, record: Mapping[str, Any], *, resume: bool, overlay: bool) -> None:
        """Make the folders; unless a run goes on, remove the results of earlier ones.

        Args:
            record: what determines the masks, for `refuse_other_run`.
            resume: whether a run goes on.
            overlay: whether there will be a new overlay; an old one would show less than the masks do.

        Raises:
            OutputError: the folder cannot be written.
        """
        try:
            for folder in (self.path, self.masks):
                self._make(folder)
            for leftover in (*self.masks.glob(".*.part"), *self.path.glob(".*.part")):
                if PART.fullmatch(leftover.name):
                    leftover.unlink()
            own = self._own()
            if not resume:
                for old in (*own, self.state, self.written):
                    old.unlink(missing_ok=True)
            elif not overlay and self.overlay in own:
                self.overlay.unlink(missing_ok=True)
            if overlay:
                self._list(self.overlay)
            part = self.record.with_name(f"{self.record.name}.part")
            part.write_text(json.dumps(dict(record), indent=1) + "\n", encoding="utf-8")
            part.replace(self.record)
        except OSError as error:
            self.retract()
            raise OutputError(
                f"{self.path} cannot be written: {error.strerror or error}; choose another folder with -o"
            ) from None

    def _own(self) -> list[Path]:
        """Results that runs wrote, by their list."""
        try:
            listed = set(self.written.read_bytes().split(b"\0"))
        except FileNotFoundError:
            return []
        there = (*sorted(self.masks.glob("*.png")), self.overlay, self.summary)
        return [file for file in there if os.fsencode(file.name) in listed]

    def foreign(self) -> int:
        """Number of PNGs among the masks that no run wrote."""
        own = set(self._own())
        return sum(mask not in own for mask in self.masks.glob("*.png"))

    def _list(self, file: Path) -> None:
        """Add a result to the list of what runs wrote."""
        with self.written.open("ab") as stream:
            stream.write(os.fsencode(file.name) + b"\0")

    def write_mask(self, name: str, labels: NDArray[np.uint8]) -> None:
        """Write a frame's mask, and its name into the list.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.mask(name)
        try:
            self._list(path)
        except OSError as error:
            raise OutputError(f"{self.written} cannot be written: {error.strerror or error}") from None
        write_label_map(path, labels)

    def report(self, content: Mapping[str, Any]) -> None:
        """Write `report.json`.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self._list(self.summary)
        except OSError as error:
            raise OutputError(f"{self.written} cannot be written: {error.strerror or error}") from None
        replace_file(self.summary, (json.dumps(content, indent=1) + "\n").encode())

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder.parent != folder:
            self._make(folder.parent)
        try:
            folder.mkdir()
        except FileExistsError:
            # Another run beside this one was quicker, and it is that one's to remove.
            if not folder.is_dir():
                raise
        else:
            self._made.append(folder)

    def retract(self) -> None:
        """Undo `begin` where no mask was written."""
        if next(self.masks.glob("*.png"), None) is not None:
            return
        for leftover in (self.state, self.record, self.written, self.record.with_name(f"{self.record.name}.part")):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
        for folder in reversed(self._made):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def finish(self) -> None:
        """The run is complete: forget how to resume it."""
        self.record.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def save_state(self, frame: int, state: Mapping[str, NDArray[Any]]) -> bool:
        """Keep the segmenter's state after a frame, so that a resumed run gives the masks of an uninterrupted one.

        Returns:
            Whether there was room for it.
        """
        part = self.state.with_name(f"{self.state.name}.part")
        arrays: dict[str, Any] = {FRAME_KEY: np.array(frame), **{STATE_PREFIX + k: v for k, v in state.items()}}
        try:
            with part.open("wb") as stream:
                np.savez(stream, **arrays)
            part.replace(self.state)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            return False
        return True

    def load_state(self) -> tuple[int, dict[str, NDArray[Any]]] | None:
        """The frame and the state that `save_state` kept; None if there is none, or it is not whole."""
        try:
            with np.load(self.state, allow_pickle=False) as arrays:
                state = {k.removeprefix(STATE_PREFIX): arrays[k] for k in arrays.files if k != FRAME_KEY}
                return int(arrays[FRAME_KEY]), state
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
