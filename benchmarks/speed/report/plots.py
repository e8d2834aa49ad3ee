"""A measurement as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..bench import BenchReport
from ..measure import Measurement
from .tables import case_names

WIDTH = 9.0
"""Inches."""


WIDE_RANGE = 10.0
"""Durations whose ratio is beyond this are drawn on a logarithmic axis."""


def draw_plots(report: BenchReport) -> dict[str, bytes]:
    """PNGs by name: `stages`, `frames`, and for a sweep `memory` and `objects`."""
    cases = report.cases
    names = case_names([case.setup for case in cases])
    pictures = {"stages": _stage_bars(names, cases), "frames": _frame_lines(names, cases)}
    for facet in ("memory", "objects"):
        if len({_size(case, facet) for case in cases}) > 1:
            pictures[facet] = _sweep_lines(cases, facet)
    return pictures


def _size(case: Measurement, facet: str) -> int:
    return case.setup.settings.memory if facet == "memory" else case.setup.objects


def _stage_bars(names: Sequence[str], cases: Sequence[Measurement]) -> bytes:
    """One bar per case, its stages side by side; references are so much slower that they have their own axis."""
    groups = {kind: [n for n, case in enumerate(cases) if case.setup.kind == kind] for kind in ("bundle", "reference")}
    shown = [members for members in groups.values() if members]
    figure = Figure(figsize=(WIDTH, 1.6 + 0.8 * len(shown) + 0.4 * len(cases)), layout="constrained")
    stages = list(dict.fromkeys(stage for case in cases for stage in case.stages))
    plots = figure.subplots(len(shown), 1, squeeze=False, height_ratios=[len(members) for members in shown])[:, 0]
    for axes, members in zip(plots, shown, strict=True):
        _draw_bars(axes, [names[n] for n in members], [cases[n] for n in members], stages)
    plots[-1].set_xlabel("ms per frame, mean over update periods")
    figure.legend(*plots[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    return _png(figure)


def _draw_bars(axes: Axes, names: Sequence[str], cases: Sequence[Measurement], stages: Sequence[str]) -> None:
    left = np.zeros(len(cases))
    for position, stage in enumerate(stages):
        lengths = np.array([sum(case.stages.get(stage, ())) / len(case.frames) for case in cases])
        axes.barh(names, lengths, left=left, label=stage, color=f"C{position % 10}")
        left += lengths
    rest = np.array([case.amortised_frame_ms for case in cases]) - left
    axes.barh(names, rest, left=left, label="between the stages", color="lightgrey")
    axes.invert_yaxis()


def _frame_lines(names: Sequence[str], cases: Sequence[Measurement]) -> bytes:
    figure, axes = _duration_axes([duration for case in cases for duration in case.frames])
    for name, case in zip(names, cases, strict=True):
        axes.plot(range(1, len(case.frames) + 1), case.frames, label=name, marker=".")
    axes.set_xlabel("frame; the first of every update period renews the memory")
    axes.set_ylabel("ms")
    axes.legend(fontsize="small")
    return _png(figure)


def _sweep_lines(cases: Sequence[Measurement], facet: str) -> bytes:
    """Mean frame over what was swept, one line per choice of everything else."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for label, case in zip(case_names([case.setup for case in cases], leave_out=facet), cases, strict=True):
        lines.setdefault(label, []).append((_size(case, facet), case.amortised_frame_ms))
    figure, axes = _duration_axes([case.amortised_frame_ms for case in cases])
    for label, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), label=label, marker="o")
    axes.set_xticks(sorted({_size(case, facet) for case in cases}))
    axes.set_xlabel("frames in memory" if facet == "memory" else "objects")
    axes.set_ylabel("ms per frame, mean over update periods")
    axes.legend(fontsize="small")
    return _png(figure)


def _duration_axes(durations: Sequence[float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    if max(durations) > WIDE_RANGE * min(durations):
        axes.set_yscale("log")
    else:
        axes.set_ylim(0, 1.1 * max(durations))
    return figure, axes


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
