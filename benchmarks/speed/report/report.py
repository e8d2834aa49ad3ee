"""The command side of `jointrt bench`: what is checked before anything is measured, what is shown, what is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ....errors import OutputError
from ....files import check_writable, replace_file
from ..bench import BenchReport, BenchRequest, bench, keep_measured
from ..clip import BenchClip
from ..environment import Environment
from ..measure import Setup
from .against import change_grids, check_comparable
from .bar import measuring
from .json_file import ReportFile
from .tables import as_grids, case_names, unsteady

CONSOLE_WIDTH = 130
"""Columns that the tables need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What is wanted besides the tables.

    Attributes:
        json: file for all figures.
        plots: folder for pictures.
        html: file for a page.
        against: file of an earlier run to compare with.
    """

    json: Path | None = None
    plots: Path | None = None
    html: Path | None = None
    against: Path | None = None

    def check(self) -> None:
        """Refuse, before anything is measured, what could not be written.

        Raises:
            OutputError: a folder is not there, or a file is.
        """
        check_writable(self.json, self.html)
        if self.plots is not None and self.plots.exists() and not self.plots.is_dir():
            raise OutputError(f"{self.plots} is a file: expected a folder for the pictures")


def run_and_report(request: BenchRequest, outputs: Outputs) -> None:
    """Measure, print the tables, write the files.

    Raises:
        JointError: what the user gave does not fit; nothing was measured then.
    """
    outputs.check()
    if outputs.plots is not None or outputs.html is not None:
        from .plots import draw_plots
    old = None if outputs.against is None else ReportFile.read(outputs.against)

    def check(environment: Environment, clip: BenchClip, setups: Sequence[Setup]) -> None:
        if old is not None and outputs.against is not None:
            check_comparable(outputs.against, old, environment, clip, setups)

    with measuring() as progress:
        report = bench(request, progress, check)
    grids = [*as_grids(report), *([] if old is None else change_grids(old, report))]
    console = Console()
    console.width = max(console.width, CONSOLE_WIDTH)
    for grid in grids:
        console.print(grid.as_rich())
    _warn(report)
    if outputs.json is not None:
        ReportFile.of(report).write(outputs.json)
    if outputs.plots is not None or outputs.html is not None:
        pictures = draw_plots(report)
        if outputs.plots is not None:
            _write_pictures(pictures, outputs.plots)
        if outputs.html is not None:
            from .page import as_page

            replace_file(outputs.html, as_page(report, grids, pictures).encode())
    keep_measured(report.cases)


def _warn(report: BenchReport) -> None:
    console = Console(stderr=True)
    for name, case in zip(case_names([case.setup for case in report.cases]), report.cases, strict=True):
        if not case.steady():
            console.print(f"{name}: {unsteady(case)}", style="yellow", soft_wrap=True, highlight=False, markup=False)


def _write_pictures(pictures: dict[str, bytes], folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from None
    for name, png in pictures.items():
        replace_file(folder / f"{name}.png", png)
