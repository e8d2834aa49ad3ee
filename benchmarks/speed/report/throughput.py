"""The command side of `jointrt bench --throughput`: a table, JSON, and the best kept for `jointrt batch`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ....files import check_writable, replace_file
from ....runtime.worker_shape import keep_shape
from ..processes import LONG_FRAMES, SHORT_FRAMES, ShapeFigures, ThroughputReport, ThroughputRequest, measure_throughput
from .bar import measuring
from .tables import Grid

CONSOLE_WIDTH = 110
"""Columns that the table needs."""


def run_throughput(request: ThroughputRequest, json_file: Path | None) -> None:
    """Measure, print the table, write the file, keep the best.

    Raises:
        JointError: what the user gave does not fit.
    """
    check_writable(json_file)
    with measuring() as progress:
        report = measure_throughput(request, progress)
    console = Console()
    console.width = max(console.width, CONSOLE_WIDTH)
    console.print(as_grid(report).as_rich())
    if json_file is not None:
        replace_file(json_file, (json.dumps(as_json(report), indent=1) + "\n").encode())
    best = report.best
    if request.objects == 1:
        kept = keep_shape(report.bundle, report.choice, best.shape, report.rate(best))
        console.print(f"`jointrt batch` takes {best.shape} here: {kept}", highlight=False, soft_wrap=True)


def as_grid(report: ThroughputReport) -> Grid:
    """Shapes below one another."""
    height, width = report.clip.size
    clips = f"{report.long} clips of {LONG_FRAMES} frames and {report.short} of {SHORT_FRAMES}"
    machine = f"{report.environment.processor}, {report.environment.cores} cores"
    return Grid(
        f"Many clips by {report.bundle.folder.name} in {report.choice.runs_on()}, {width}x{height}",
        ("", "frames/s", "times the first", "round by round", "loading s", "MB of a process, shared"),
        [_row(report, figures) for figures in report.shapes],
        f"each round {clips}, the first of {report.clip.path.name}, {report.frames} in all; {machine}",
    )


def _row(report: ThroughputReport, figures: ShapeFigures) -> tuple[str, ...]:
    ratios = report.ratios(figures)
    memory = "-" if figures.private_mb is None else f"{figures.private_mb:.0f}, {figures.shared_mb:.0f}"
    return (
        str(figures.shape),
        f"{report.rate(figures):.1f}",
        f"{report.rate(figures) / report.rate(report.shapes[0]):.2f}",
        f"{min(ratios):.2f} to {max(ratios):.2f}",
        f"{figures.load_seconds:.1f}",
        memory,
    )


def as_json(report: ThroughputReport) -> dict[str, Any]:
    """All figures."""
    return {
        "environment": dataclasses.asdict(report.environment),
        "bundle": report.bundle.folder.name,
        "fingerprint": report.bundle.fingerprint,
        "backend": str(report.choice),
        "clip": report.clip.fingerprint,
        "objects": report.objects,
        "long_clips": report.long,
        "short_clips": report.short,
        "frames": report.frames,
        "best": dataclasses.asdict(report.best.shape),
        "shapes": [
            {**dataclasses.asdict(figures), "frames_per_second": report.rate(figures), "ratios": report.ratios(figures)}
            for figures in report.shapes
        ],
    }
