"""The tracker's states on disk, from which a correction goes on, also after the server was killed."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ..files import replace_file

EVERY = 5
"""Frames between states."""
MOST = 12
"""States of one direction; the farther back, the sparser."""


class States:
    """States of one way of computing, by direction (1 forwards, -1 backwards) and the frame after which they are."""

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._folder = folder

    def use(self, way: str) -> None:
        """Look at the states of one way of computing; those of others are deleted."""
        self._folder = self._root / hashlib.sha256(way.encode()).hexdigest()[:16]
        for other in self._root.glob("*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)

    def frames(self, direction: int) -> list[int]:
        """Frames that have a state, in the order of tracking."""
        return sorted(
            (int(p.stem[1:]) for p in self._folder.glob(f"{_letter(direction)}*")), key=lambda at: at * direction
        )

    def put(self, direction: int, frame: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep a state; of too many, the one goes that leaves the smallest gap for its distance.

        Raises:
            OutputError: it cannot be written.
        """
        replace_file(self._file(direction, frame), save({k: np.array(v, order="C") for k, v in state.items()}))
        kept = self.frames(direction)
        if len(kept) > MOST:
            gaps = {
                at: abs(after - before) / (abs(kept[-1] - at) + EVERY)
                for before, at, after in zip(kept, kept[1:], kept[2:], strict=False)
            }
            self._file(direction, min(gaps, key=gaps.__getitem__)).unlink(missing_ok=True)

    def before(self, direction: int, frame: int) -> int | None:
        """The nearest frame before another that has a state."""
        return next((at for at in reversed(self.frames(direction)) if (frame - at) * direction > 0), None)

    def get(self, direction: int, frame: int) -> dict[str, NDArray[Any]] | None:
        """A state; None where the file is damaged."""
        try:
            return load_file(self._file(direction, frame))
        except (OSError, SafetensorError):
            return None

    def forget(self, frame: int, *directions: int) -> None:
        """Delete the states that depend on a frame, of both directions if none is named."""
        for folder in self._root.glob("*"):
            for file in folder.glob("[fb]*"):
                direction = 1 if file.stem[0] == "f" else -1
                if direction in (directions or (1, -1)) and (int(file.stem[1:]) - frame) * direction >= 0:
                    file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all states."""
        for file in self._root.glob("*/[fb]*"):
            file.unlink(missing_ok=True)

    def _file(self, direction: int, frame: int) -> Path:
        return self._folder / f"{_letter(direction)}{frame:06d}.safetensors"


def _letter(direction: int) -> str:
    return "f" if direction > 0 else "b"
