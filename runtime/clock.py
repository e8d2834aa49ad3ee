"""Where the time of a frame goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Durations of named stages, in seconds, in the order in which they were measured; off until switched on."""

    def __init__(self) -> None:
        self.enabled = False
        self.durations: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`."""
        if not self.enabled:
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self.durations[name].append(time.perf_counter() - start)
