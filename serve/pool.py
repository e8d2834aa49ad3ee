"""Segmenters that are kept for the next session: engines take longer to load than many a stream lasts."""

from __future__ import annotations

import threading
from typing import Any

from ..errors import SettingsError
from ..runtime.segmenter import Segmenter
from .limits import Limits
from .messages import Open

Key = tuple[str, tuple[tuple[str, Any], ...]]


class SegmenterPool:
    """At most as many segmenters as there may be sessions; safe between threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._free: list[tuple[Key, Segmenter]] = []
        self._taken = 0

    def key(self, asked: Open) -> Key:
        """What a session needs.

        Raises:
            SettingsError: the server has no such bundle.
        """
        bundle = asked.bundle or self.limits.bundles[0]
        if bundle not in self.limits.bundles:
            raise SettingsError(f"bundle {bundle[:80]!r} is not served: expected {', '.join(self.limits.bundles)}")
        return bundle, tuple(sorted({**self.limits.options.options(), **asked.chosen()}.items()))

    def take(self, key: Key) -> Segmenter:
        """One that follows nothing: a free one, or a new one in place of another's; `give_back` or `give_up` follows.

        Raises:
            JointError: a setting is out of its range, or the bundle cannot be used.
        """
        with self._lock:
            self._taken += 1
            place = next((n for n, (held, _) in enumerate(self._free) if held == key), None)
            if place is not None:
                return self._free.pop(place)[1]
            if len(self._free) + self._taken > self.limits.sessions:
                self._free.pop(0)
        return Segmenter.load(key[0], **dict(key[1]))

    def give_back(self, key: Key, segmenter: Segmenter) -> None:
        """It can be used again."""
        segmenter.reset()
        with self._lock:
            self._taken -= 1
            self._free.append((key, segmenter))

    def give_up(self) -> None:
        """One that was taken, or could not be, is used no more."""
        with self._lock:
            self._taken -= 1
