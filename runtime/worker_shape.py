"""How many processes of how many threads keep a machine busy: what was measured on it, kept for later."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ..errors import OutputError, SettingsError
from ..files import cache_folder, replace_file
from .backends import Choice
from .bundle import Bundle
from .device.cuda_driver import query_cuda_driver
from .settings import available_cores


@dataclass(frozen=True, slots=True)
class WorkerShape:
    """P processes with T threads each."""

    processes: int
    threads: int

    @classmethod
    def read(cls, text: str) -> Self:
        """From "PxT".

        Raises:
            SettingsError: it is something else.
        """
        found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", text)
        if found is None:
            raise SettingsError(f"{text!r} is no number of processes and threads: expected PxT, for example 2x1")
        return cls(int(found[1]), int(found[2]))

    @property
    def each(self) -> str:
        """The threads of a process, in words."""
        return "1 thread" if self.threads == 1 else f"{self.threads} threads"

    def __str__(self) -> str:
        return f"{'1 process' if self.processes == 1 else f'{self.processes} processes'} of {self.each}"


def processor() -> str:
    """The processor's name as the system has it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usual_shapes(cores: int | None = None) -> tuple[WorkerShape, ...]:
    """What is worth a try on so many cores: one process of all threads first, at last one process more than cores."""
    cores = available_cores() if cores is None else cores
    return tuple(dict.fromkeys([*_divided(cores), WorkerShape(cores + 1, 1)]))


def _divided(cores: int) -> Iterator[WorkerShape]:
    threads = cores
    while threads > 1:
        yield WorkerShape(max(1, cores // threads), threads)
        threads //= 2
    yield WorkerShape(cores, 1)


def guessed_shape() -> WorkerShape:
    """As many processes as cores, of one thread each: threads of one engine wait for one another, processes do not."""
    return WorkerShape(available_cores(), 1)


def keep_shape(bundle: Bundle, choice: Choice, shape: WorkerShape, frames_per_second: float) -> Path:
    """Keep what was found best, for this bundle on this machine.

    Returns:
        The file.

    Raises:
        OutputError: the user's cache cannot be written.
    """
    file = cache_folder("throughput") / _name(bundle, choice)
    held = {
        "processes": shape.processes,
        "threads": shape.threads,
        "frames_per_second": frames_per_second,
        "bundle": str(bundle.folder),
        "backend": str(choice),
        "processor": processor(),
        "cores": available_cores(),
    }
    replace_file(file, (json.dumps(held, indent=1) + "\n").encode())
    return file


def kept_shape(bundle: Bundle, choice: Choice) -> WorkerShape | None:
    """What was found best; None where nothing was measured, the file is not whole, or the user can have no cache."""
    try:
        held = json.loads((cache_folder("throughput") / _name(bundle, choice)).read_bytes())
        shape = WorkerShape(int(held["processes"]), int(held["threads"]))
    except (OSError, ValueError, KeyError, TypeError, OutputError):
        return None
    return shape if 1 <= shape.threads <= 1024 and 1 <= shape.processes <= 1024 else None


def _name(bundle: Bundle, choice: Choice) -> str:
    key: list[str | int] = [bundle.fingerprint, str(choice), processor(), available_cores()]
    if choice.device != "cpu":
        key += [device.name for device in query_cuda_driver().devices]
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32] + ".json"
