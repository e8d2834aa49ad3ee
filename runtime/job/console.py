"""What a run shows in the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from .run import Outcome, Request


class _Rate(ProgressColumn):
    """Frames per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- fps" if speed is None else f"{speed:.1f} fps")


class RunDisplay:
    """A progress bar on the error output: what is done, frames, frames per second, time left."""

    def __init__(self, activity: str = "segmenting") -> None:
        self.console = Console(stderr=True)
        self._progress = Progress(
            TextColumn(activity),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Self:
        """Show the bar from `begin` on."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def begin(self, total: int | None, done: int) -> None:
        """See `run.Display`."""
        self._task = self._progress.add_task("", total=total, completed=done)
        self._progress.start()

    def advance(self) -> None:
        """See `run.Display`."""
        self._progress.advance(self._task)

    def note(self, text: str) -> None:
        """See `run.Display`."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def summary(outcome: Outcome, request: Request) -> str:
    """One line: frames, objects, seconds, frames per second, the bundle, what ran it, where the results are."""
    rate = outcome.segmented / outcome.seconds if outcome.seconds else 0.0
    places = [str(request.out / "masks")] + [str(request.out / "overlay.mp4")] * request.overlay
    counts = ", ".join(
        f"{count} {noun}{'' if count == 1 else 's'}"
        for count, noun in ((outcome.frames, "frame"), (outcome.objects, "object"))
    )
    counts += f", {outcome.dropped} dropped" * (outcome.dropped > 0)
    runner = outcome.runs_on.partition(":")[0]
    told = [f"{i} lost from {name} on" for i, name in outcome.lost.items()]
    told += [f"{i} lost from {lost}, found in {found}" for i, (lost, found) in outcome.found.items()]
    if told:
        counts += f" ({', '.join(told[:5])}{f' and {len(told) - 5} more' * (len(told) > 5)})"
    return f"{counts}, {outcome.seconds:.1f} s, {rate:.1f} fps by {request.bundle} in {runner}: {' and '.join(places)}"
