"""A measurement as one self-contained HTML page: the machine, the tables, the pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from ...html_page import data_address, render
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
    facts = {name: value for name, value in dataclasses.asdict(report.environment).items() if value is not None}
    facts["clip"] = f"{report.clip.path.name}, {report.clip.size[1]}x{report.clip.size[0]}"
    facts |= {f"bundle {c.setup.bundle}": c.setup.fingerprint for c in report.cases}
    shown = [{"address": data_address(png, "png"), "caption": CAPTIONS[name]} for name, png in pictures.items()]
    return render("bench.html", title="jointrt bench", facts=facts, grids=grids, pictures=shown)
