"""What a measurement shows while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@contextmanager
def measuring() -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is drawn when it is told to only: one that draws itself would take the cores from what is measured.

    Yields:
        What is told the activity, how much of it is done, and of how much; 0 where that is not known.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task("opening", total=None)

        def progress(activity: str, done: int, total: int) -> None:
            bar.update(task, description=activity, completed=done, total=total or None, refresh=True)

        yield progress
