"""What a batch shows in the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class BatchDisplay:
    """A bar on the error output: videos, frames, frames per second, failures, time left."""

    def __init__(self) -> None:
        self._console = console = Console(stderr=True)
        self._frames = self._failed = 0
        self._progress = Progress(
            TextColumn("videos"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Show the bar from `begin` on."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def begin(self, total: int, workers: list[str]) -> None:
        """See `batch.Watcher`."""
        self._task = self._progress.add_task(f"on {len(workers)} workers", total=total)
        self._progress.start()

    def ended(self, row: dict[str, Any]) -> None:
        """See `batch.Watcher`."""
        if row["error"] is None and row["state"] == "segmented":
            self._frames += row["frames"]
        self._failed += row["error"] is not None
        elapsed = self._progress.tasks[self._task].elapsed or 0.0
        rate = self._frames / elapsed if elapsed else 0.0
        self._progress.update(
            self._task, advance=1, description=f"{self._frames} frames, {rate:.1f} fps, {self._failed} failed"
        )

    def note(self, text: str) -> None:
        """See `batch.Watcher`."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
