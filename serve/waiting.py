"""Frames that have arrived and are not begun."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from .messages import Header


@dataclass(frozen=True, slots=True, eq=False)
class Received:
    """A frame as it came; `at` is when, by `time.perf_counter`."""

    header: Header
    body: memoryview
    at: float = field(default_factory=time.perf_counter)

    @property
    def must_be_seen(self) -> bool:
        """Whether later frames depend on it."""
        return bool(self.header.mask or self.header.remove)


class Waiting:
    """At most K frames in order, between the task that receives and the one that answers."""

    def __init__(self, most: int, *, drop: bool) -> None:
        self._most = most
        self._drop = drop
        self._frames: deque[Received] = deque()
        self._dropped: list[int] = []
        self._changed = asyncio.Condition()
        self._ended = False

    async def put(self, frame: Received) -> None:
        """Add a frame; where K wait, the oldest that may be is dropped, or this waits."""
        async with self._changed:
            while len(self._frames) >= self._most:
                old = next((f for f in self._frames if not f.must_be_seen), None) if self._drop else None
                if old is None:
                    await self._changed.wait()
                    continue
                self._frames.remove(old)
                self._dropped.append(old.header.id)
            self._frames.append(frame)
            self._changed.notify_all()

    async def end(self) -> None:
        """No frame follows."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def take(self) -> tuple[Received, list[int]] | None:
        """The next frame, with the ids of those dropped before it; None at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._frames or self._ended)
            if not self._frames:
                return None
            frame = self._frames.popleft()
            dropped, self._dropped = self._dropped, []
            self._changed.notify_all()
            return frame, dropped
