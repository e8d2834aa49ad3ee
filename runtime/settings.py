"""How a bundle is used."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from ..errors import SettingsError
from .manifest import Defaults, Windows

INITIAL_STEPS = 20
"""Steepest-descent steps for a new object (LWL, section 4)."""
UPDATE_STEPS = 3
"""Steepest-descent steps at a memory update (LWL, section 4)."""

MIN_AREA = 100.0
"""The released tracker's smallest area, in pixels."""

Branches = Literal["both", "transduction", "induction"]
ScoreResize = Literal["given", "ratio"]
Share = Literal["exact", "frame"]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the orchestrator.

    Attributes:
        memory: N, frames kept per object (section 3.5).
        interval: T, frames between memory updates (section 3.5).
        branches: which of the two branches contribute (Table 1).
        threads: cores that one engine call may use.
        score_resize: how a crop's scores are mapped back to the frame; see `crop.paste_scores`.
        min_area: sum of probabilities, in pixels, below which a target keeps its place and size.
        windows: whether windows shrunk to the frame are cut as the released tracker does, or steadily; see
            `crop.place_window`.
        share: whether objects share what is equal anyway, or look at the whole frame, always, and share all of it.
    """

    memory: int
    interval: int
    branches: Branches
    threads: int
    score_resize: ScoreResize
    min_area: float = MIN_AREA
    windows: Windows = "released"
    share: Share = "exact"

    @classmethod
    def resolve(
        cls,
        defaults: Defaults,
        *,
        memory: int | None = None,
        interval: int | None = None,
        branches: str = "both",
        threads: int | None = None,
        score_resize: str = "given",
        min_area: float | None = None,
        windows: str | None = None,
        share: str = "exact",
    ) -> Self:
        """What the user asked for, else the bundle's defaults.

        Raises:
            SettingsError: a value is out of its range.
        """
        chosen_memory = defaults.memory if memory is None else memory
        chosen_interval = defaults.interval if interval is None else interval
        chosen_threads = available_cores() if threads is None else threads
        for name, value, largest in (
            ("memory", chosen_memory, 256),
            ("interval", chosen_interval, 1_000_000),
            ("threads", chosen_threads, 1024),
        ):
            if not 1 <= value <= largest:
                raise SettingsError(f"{name} is {value}: expected 1 to {largest}")
        if branches not in get_args(Branches):
            raise SettingsError(f"branches is {branches!r}: expected one of {', '.join(get_args(Branches))}")
        if score_resize not in get_args(ScoreResize):
            raise SettingsError(f"score_resize is {score_resize!r}: expected one of {', '.join(get_args(ScoreResize))}")
        windows = defaults.windows if windows is None else windows
        if windows not in get_args(Windows):
            raise SettingsError(f"windows is {windows!r}: expected one of {', '.join(get_args(Windows))}")
        if share not in get_args(Share):
            raise SettingsError(f"share is {share!r}: expected one of {', '.join(get_args(Share))}")
        area = MIN_AREA if min_area is None else min_area
        if not 0 <= area <= MIN_AREA:
            raise SettingsError(f"min_area is {area}: expected 0 to {MIN_AREA:g}, the released tracker's")
        chosen: dict[str, Any] = {
            "branches": branches,
            "score_resize": score_resize,
            "windows": windows,
            "share": share,
        }
        return cls(memory=chosen_memory, interval=chosen_interval, threads=chosen_threads, min_area=area, **chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be chosen beside the bundle; requests of what loads one are such records.

    Attributes:
        memory, interval, branches, threads, score_resize, min_area, windows, share, device, backend: see
            `Segmenter.load`.
    """

    memory: int | None = None
    interval: int | None = None
    branches: str = "both"
    threads: int | None = None
    score_resize: str = "given"
    min_area: float | None = None
    windows: str | None = None
    share: str = "exact"
    device: str = "cpu"
    backend: str = "auto"

    def options(self) -> dict[str, Any]:
        """By name, as `Segmenter.load` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(Options)}

    def settings(self, defaults: Defaults) -> Settings:
        """With a bundle's defaults for what is not chosen.

        Raises:
            SettingsError: a value is out of its range.
        """
        chosen = self.options()
        del chosen["device"], chosen["backend"]
        return Settings.resolve(defaults, **chosen)
