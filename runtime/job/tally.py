"""What became of each object over a run's frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Track:
    """One object: in how many frames it is seen, from which on it is gone, and its areas in pixels where it is seen.

    Attributes:
        first, last: names of the first and last frames in which it is seen.
        lost_from: name of the frame from which on it is gone; None if it is in the latest frame.
        returns: names of the frames from which on it was gone, and in which it was found again.
    """

    first: str
    last: str
    lost_from: str | None = None
    returns: list[tuple[str, str]] = field(default_factory=list)
    areas: list[int] = field(default_factory=list)


class Tally:
    """Counts label maps, in order.

    Attributes:
        frames: counted so far.
        tracks: by object.
    """

    def __init__(self) -> None:
        self.frames = 0
        self.tracks: dict[int, Track] = {}

    def add(self, name: str, labels: NDArray[np.uint8]) -> None:
        """Count the next frame's label map (H, W)."""
        self.frames += 1
        counts = np.bincount(labels.ravel(), minlength=256)
        seen = {int(i): int(counts[i]) for i in np.flatnonzero(counts) if i}
        for object_id, area in seen.items():
            track = self.tracks.setdefault(object_id, Track(name, name))
            track.areas.append(area)
            if track.lost_from is not None:
                track.returns.append((track.lost_from, name))
            track.last, track.lost_from = name, None
        for object_id in self.tracks.keys() - seen.keys():
            track = self.tracks[object_id]
            track.lost_from = track.lost_from or name

    def lost(self) -> dict[int, str]:
        """Objects that are not in the last frame, and from which on they are gone."""
        return {i: t.lost_from for i, t in sorted(self.tracks.items()) if t.lost_from is not None}

    def found(self) -> dict[int, tuple[str, str]]:
        """Objects that are in the last frame and were gone before: from which frame on, and where they were found."""
        return {i: t.returns[-1] for i, t in sorted(self.tracks.items()) if t.returns and t.lost_from is None}

    def report(self, bundle: str, runs_on: str, seconds: float) -> dict[str, Any]:
        """As JSON can hold it."""
        objects = {
            str(i): {
                "frames_seen": len(t.areas),
                "first_seen": t.first,
                "last_seen": t.last,
                "lost_from": t.lost_from,
                "found_again": [{"lost_from": lost, "found": found} for lost, found in t.returns],
                "area": {"least": min(t.areas), "median": float(np.median(t.areas)), "largest": max(t.areas)},
            }
            for i, t in sorted(self.tracks.items())
        }
        return {
            "frames": self.frames,
            "seconds": round(seconds, 2),
            "bundle": bundle,
            "runs_on": runs_on,
            "objects": objects,
        }
