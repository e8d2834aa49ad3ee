"""What a client may ask of the server."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..runtime.settings import Options


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of every session, and what its segmenter runs with.

    Attributes:
        bundles: those that a client may name; the first where it names none.
        options: device, backend and threads are the server's; the rest holds where a client chooses nothing.
        sessions: at a time.
        objects: that one session may follow.
        pixels: of a frame.
        rate: frames per second that are read from one client.
        behind: largest K that a client may set.
        idle: seconds without a frame after which a session ends; also for a client that does not read.
        longest: seconds after which a session ends in any case.
    """

    bundles: tuple[str, ...] = ("lite",)
    options: Options = field(default_factory=lambda: Options(threads=1))
    sessions: int = 4
    objects: int = 16
    pixels: int = 1920 * 1088
    rate: float = 120.0
    behind: int = 64
    idle: float = 60.0
    longest: float = 3600.0

    @property
    def message_bytes(self) -> int:
        """Of the largest message: a raw frame, its mask and its header."""
        return 4 * self.pixels + (1 << 16)
