"""One self-contained HTML page: the figures, how they run over the frames, and the worst frames as pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from ..html_page import document, fact_list, picture
from .scores import HEADER, MEAN, ObjectScore, rows

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
    shown = sorted(worst, key=lambda w: w.score)[:WORST_SHOWN]
    return document(
        title,
        f"{fact_list(facts)}<h2>Figures</h2>\n{_table(scores)}<h2>Worst frames</h2>\n"
        f"<p>Object pixels {_swatch('found', FOUND)}, {_swatch('missed', MISSED)}, and "
        f"{_swatch('background taken for the object', WRONG)}.</p>\n"
        f'<div class="frames">\n{"".join(_figure(w) for w in shown)}</div>\n',
    )


def _table(scores: Sequence[ObjectScore]) -> str:
    head = "".join(f"<th>{name}" for name in (*HEADER, "J and F over the frames"))
    curves = [*map(_curves, scores), ""]
    body = "".join(
        f"<tr{' class=mean' if sequence == MEAN and not object_id else ''}><td>{escape(sequence)}<td>{object_id}"
        + "".join(f"<td>{value:.3f}" for value in figures)
        + f"<td>{curve}\n"
        for (sequence, object_id, figures), curve in zip(rows(scores), curves, strict=True)
    )
    return f"<table>\n<tr>{head}\n{body}</table>\n"


def _curves(score: ObjectScore) -> str:
    """J and F as two lines, 1 at the top."""
    lines = "".join(
        f'<polyline fill="none" stroke="rgb{colour}" stroke-width="1.5" points="{_points(values)}"/>'
        for values, colour in ((score.region, FOUND), (score.boundary, WRONG))
    )
    return f'<svg width="200" height="32" viewBox="0 -1 200 34" role="img"><title>J green, F blue</title>{lines}</svg>'


def _points(values: Sequence[float]) -> str:
    step = 200 / max(1, len(values) - 1)
    return " ".join(f"{number * step:.1f},{32 * (1 - value):.1f}" for number, value in enumerate(values))


def _figure(worst: WorstFrame) -> str:
    caption = f"{worst.sequence}, object {worst.object_id}, frame {worst.frame}"
    return picture(worst.jpeg, "jpeg", caption, f"{caption}: J {worst.region:.3f}, F {worst.boundary:.3f}")


def _swatch(text: str, colour: tuple[int, int, int]) -> str:
    return f'<b style="border-bottom: 4px solid rgb{colour}">{text}</b>'
