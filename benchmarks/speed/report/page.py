"""A measurement as one self-contained HTML page: the machine, the tables, the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from html import escape

from ...html_page import document, fact_list, picture
from ..bench import BenchReport
from .tables import Grid

CAPTIONS = {
    "stages": "Where the time of a frame goes",
    "frames": "Every timed frame",
    "memory": "Time of a frame by frames in memory",
    "objects": "Time of a frame by objects",
}


def as_page(report: BenchReport, grids: Iterable[Grid], pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        report: gives machine, versions and clip.
        grids: the tables to show.
        pictures: PNGs of `draw_plots`.
    """
    environment = dataclasses.asdict(report.environment)
    facts = {name: str(value) for name, value in environment.items() if value is not None}
    facts["clip"] = f"{report.clip.path.name}, {report.clip.size[1]}x{report.clip.size[0]}"
    facts |= {f"bundle {c.setup.bundle}": c.setup.fingerprint for c in report.cases}
    figures = "".join(picture(png, "png", CAPTIONS[name], CAPTIONS[name]) for name, png in pictures.items())
    return document("jointrt bench", fact_list(facts) + figures + "".join(map(_table, grids)))


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{escape(name)}" for name in grid.header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) + "\n" for row in grid.rows)
    return f"<h2>{escape(grid.title)}</h2>\n<table>\n<tr>{head}\n{body}</table>\n<p>{escape(grid.caption)}</p>\n"
