"""A run that tells nobody of its progress."""

from __future__ import annotations


class Quiet:
    """Shows nothing."""

    def begin(self, total: int | None, done: int) -> None:
        """See `run.Display`."""

    def advance(self) -> None:
        """See `run.Display`."""

    def note(self, text: str) -> None:
        """See `run.Display`."""
