"""What can be undone and made again, kept on disk as it is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ..errors import OutputError
from ..files import replace_file
from .record import Object, Seen

MOST = 200
"""Changes that can be undone."""


class Change(BaseModel):
    """A frame before and after a change, as PNGs (None: no masks), and which objects were given in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")
    frame: int = Field(ge=0)
    before: bytes | None
    after: bytes
    given_before: list[int]
    given_after: list[int]


class Removal(BaseModel):
    """An object that was taken out of all frames.

    Attributes:
        object: it.
        place: in the list of objects.
        regions: by frame, where it was, as PNGs that are 0 elsewhere.
        given: frames in which a person gave it.
        seen: by frame, what was known of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="base64", val_json_bytes="base64")
    object: Object
    place: int = Field(ge=0)
    regions: dict[int, bytes]
    given: list[int]
    seen: dict[int, Seen]


_ANY: TypeAdapter[Change | Removal] = TypeAdapter(Change | Removal)


class History:
    """One file a change, `000007.done` or, once it is undone, `000007.undone`: renaming moves it across whole."""

    def __init__(self, folder: Path) -> None:
        """Go on with what the folder holds."""
        self._folder = folder
        self._done = _numbers(folder, "done")
        self._undone = _numbers(folder, "undone")[::-1]

    @property
    def counts(self) -> tuple[int, int]:
        """Changes that can be undone, and made again."""
        return len(self._done), len(self._undone)

    def clear(self) -> None:
        """Forget all."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._done, self._undone = [], []

    def add(self, change: Change | Removal) -> None:
        """Note a change that is about to be made; what was undone before cannot be made again.

        Raises:
            OutputError: it cannot be written.
        """
        self._folder.mkdir(exist_ok=True)
        for number in self._undone:
            self._file(number, "undone").unlink(missing_ok=True)
        self._undone.clear()
        number = self._done[-1] + 1 if self._done else 0
        replace_file(self._file(number, "done"), change.model_dump_json().encode())
        self._done.append(number)
        while len(self._done) > MOST:
            self._file(self._done.pop(0), "done").unlink(missing_ok=True)

    def next(self, *, again: bool) -> Change | Removal | None:
        """The change to take back, or to make again; None if there is none.

        Raises:
            OutputError: its file is damaged; the whole history is forgotten then.
        """
        numbers, state = (self._undone, "undone") if again else (self._done, "done")
        if not numbers:
            return None
        file = self._file(numbers[-1], state)
        try:
            return _ANY.validate_json(file.read_bytes())
        except (OSError, ValidationError):
            self.clear()
            raise OutputError(f"{file} is damaged: what was done before cannot be undone") from None

    def moved(self, change: Change | Removal, *, again: bool) -> None:
        """Note that the next change was taken back, or made again, in which case it may be another than before."""
        taken, other = (self._undone, self._done) if again else (self._done, self._undone)
        states = ("undone", "done") if again else ("done", "undone")
        number = taken.pop()
        if again and isinstance(change, Removal):
            replace_file(self._file(number, states[0]), change.model_dump_json().encode())
        self._file(number, states[0]).replace(self._file(number, states[1]))
        other.append(number)

    def _file(self, number: int, state: str) -> Path:
        return self._folder / f"{number:06d}.{state}"


def _numbers(folder: Path, state: str) -> list[int]:
    return sorted(int(file.stem) for file in folder.glob(f"[0-9]*.{state}") if file.stem.isdecimal())
