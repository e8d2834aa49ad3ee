"""One self-contained HTML page: the figures, how they run over the frames, and the worst frames as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ..html_page import data_address, render
from .scores import HEADER, ObjectScore, rows

WORST_PER_OBJECT = 3
WORST_SHOWN = 48
PICTURE_WIDTH = 480
FOUND, MISSED, WRONG = (0, 158, 115), (230, 159, 0), (0, 114, 178)
"""Colours (RGB) of object pixels found, missed, and of background taken for the object (Okabe and Ito's palette)."""


@dataclass(frozen=True, slots=True)
class WorstFrame:
    """A frame that an object scored badly in.

    Attributes:
        sequence, object_id, frame: which.
        region: J.
        boundary: F.
        jpeg: the picture.
    """

    sequence: str
    object_id: int
    frame: str
    region: float
    boundary: float
    jpeg: bytes

    @property
    def score(self) -> float:
        """Mean of J and F."""
        return (self.region + self.boundary) / 2

    @property
    def name(self) -> str:
        """As a reader sees it."""
        return f"{self.sequence}, object {self.object_id}, frame {self.frame}"

    @property
    def address(self) -> str:
        """The picture's."""
        return data_address(self.jpeg, "jpeg")


def worst_frames(score: ObjectScore) -> list[int]:
    """Numbers of the worst scored frames of an object, at least a tenth of the sequence apart."""
    means = (np.array(score.region) + np.array(score.boundary)) / 2
    apart = max(1, len(means) // 10)
    chosen: list[int] = []
    for number in np.argsort(means, kind="stable").tolist():
        if all(abs(number - other) >= apart for other in chosen):
            chosen.append(number)
        if len(chosen) == WORST_PER_OBJECT:
            break
    return chosen


def draw_difference(frame: NDArray[np.uint8], truth: NDArray[np.bool_], result: NDArray[np.bool_]) -> bytes:
    """JPEG of a frame (H, W, 3), RGB, with the pixels of one object tinted by whether they were found."""
    picture = frame.astype(np.float32)
    for pixels, colour, share in (
        (truth & result, FOUND, 0.35),
        (truth & ~result, MISSED, 0.7),
        (result & ~truth, WRONG, 0.7),
    ):
        picture[pixels] += share * (np.array(colour, np.float32) - picture[pixels])
    height, width = truth.shape
    scale = min(1.0, PICTURE_WIDTH / width)
    size = (round(width * scale), max(1, round(height * scale)))
    smaller = cv2.resize(np.rint(picture).astype(np.uint8), size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", smaller[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return encoded.tobytes()


def as_page(title: str, facts: Mapping[str, str], scores: Sequence[ObjectScore], worst: Iterable[WorstFrame]) -> str:
    """The page.

    Args:
        title: its heading.
        facts: what was evaluated and how, by name.
        scores: all objects.
        worst: pictures to choose the worst `WORST_SHOWN` from.
    """
    colours = {"found": FOUND, "missed": MISSED, "wrong": WRONG}
    return render(
        "scores.html",
        title=title,
        facts=facts,
        header=HEADER,
        rows=zip(rows(scores), [*scores, None], strict=True),
        worst=sorted(worst, key=lambda frame: frame.score)[:WORST_SHOWN],
        **{name: f"rgb{colour}" for name, colour in colours.items()},
    )
