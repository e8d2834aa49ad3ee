"""Scores per sequence and object, and how they are shown: CSV and table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table

from .metrics import Statistics, statistics


class Figures(NamedTuple):
    """The figures of one row; J&F is the mean of the two means."""

    J_mean: float
    J_recall: float
    J_decay: float
    F_mean: float
    F_recall: float
    F_decay: float
    JF_mean: float

    @classmethod
    def of(cls, region: Statistics, boundary: Statistics) -> Figures:
        """From the statistics of J and F."""
        return cls(*region, *boundary, (region.mean + boundary.mean) / 2)


HEADER = ("sequence", "object", *Figures._fields)
MEAN = "mean"
"""Name of the last row."""


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """Scores of one object.

    Attributes:
        sequence: its sequence.
        object_id: its id in the annotations.
        frames: names of the scored frames.
        region: J, one per frame.
        boundary: F, one per frame.
    """

    sequence: str
    object_id: int
    frames: tuple[str, ...]
    region: tuple[float, ...]
    boundary: tuple[float, ...]

    @property
    def figures(self) -> Figures:
        """Statistics over the frames."""
        return Figures.of(statistics(self.region), statistics(self.boundary))


def mean_figures(scores: Sequence[ObjectScore]) -> Figures:
    """Mean over the objects, each counting alike whatever its sequence, as in the DAVIS 2017 tool."""
    columns = zip(*(score.figures for score in scores), strict=True)
    return Figures(*(sum(column) / len(scores) for column in columns))


def rows(scores: Sequence[ObjectScore]) -> Iterator[tuple[str, str, Figures]]:
    """Sequence, object and figures of every row, the mean last."""
    for score in scores:
        yield score.sequence, str(score.object_id), score.figures
    yield MEAN, "", mean_figures(scores)


def as_csv(scores: Sequence[ObjectScore]) -> str:
    """Comma-separated values with all digits: `HEADER`, the objects, the mean."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((sequence, object_id, *figures) for sequence, object_id, figures in rows(scores))
    return text.getvalue()


def as_table(scores: Sequence[ObjectScore], title: str) -> Table:
    """Table for the terminal, three digits."""
    table = Table(title=title)
    for name in HEADER:
        table.add_column(name, justify="left" if name == "sequence" else "right", no_wrap=True)
    for sequence, object_id, figures in rows(scores):
        if sequence == MEAN and not object_id:
            table.add_section()
        table.add_row(sequence, object_id, *(f"{value:.3f}" for value in figures))
    return table
