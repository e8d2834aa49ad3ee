"""A measurement as tables of text, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from ..bench import BenchReport
from ..durations import DRIFT, Ratio, Summary, drift
from ..measure import Measurement, Setup
from ..throughput import Throughput

INDUCTION = "induction"
"""The stage that cannot be timed: the bundles have the target model in the decoder's graph."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: the first column is text, the others are figures."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str = ""

    def as_rich(self) -> Table:
        """For the terminal."""
        table = Table(title=self.title, caption=self.caption)
        for position, title in enumerate(self.header):
            table.add_column(title, justify="right" if position else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def facets(setup: Setup) -> dict[str, str]:
    """What a sweep may vary; empty where it is nothing to the case."""
    settings = setup.settings
    return {
        "backend": setup.backend if setup.kind == "bundle" else "",
        "crop": f"crop {setup.crop[0]}x{setup.crop[1]}",
        "threads": f"threads {settings.threads}",
        "memory": f"memory {settings.memory}",
        "objects": f"objects {setup.objects}",
        "share": f"share {settings.share}",
    }


def case_names(setups: Sequence[Setup], leave_out: str = "") -> list[str]:
    """What distinguishes each case from the others: the bundle, and the facets of which there are several.

    Args:
        setups: of all cases.
        leave_out: a facet not to name.
    """
    found = {name: {facets(setup)[name] for setup in setups} - {""} for name in facets(setups[0])}
    several = {name for name, texts in found.items() if len(texts) > 1} - {leave_out}
    return [
        ", ".join(
            (_subject(setup, setups), *(text for name, text in facets(setup).items() if name in several and text))
        )
        for setup in setups
    ]


def _subject(setup: Setup, setups: Sequence[Setup]) -> str:
    """The bundle's name, with the beginning of its fingerprint where folders of one name hold several."""
    namesakes = {other.fingerprint for other in setups if (other.bundle, other.crop) == (setup.bundle, setup.crop)}
    name = setup.bundle if len(namesakes) == 1 else f"{setup.bundle} {setup.fingerprint[:8]}"
    return name if setup.kind == "bundle" else f"PyTorch reference of {name}"


def as_grids(report: BenchReport) -> list[Grid]:
    """Each case by stage, the cases side by side, whole clips."""
    names = case_names([case.setup for case in report.cases])
    grids = [stage_grid(name, case, report) for name, case in zip(names, report.cases, strict=True)]
    if len(report.cases) > 1:
        grids.append(comparison_grid(names, report.cases))
    if report.throughput:
        grids.append(throughput_grid(report.throughput))
    return grids


def stage_grid(name: str, case: Measurement, report: BenchReport) -> Grid:
    """Stages with their share of a frame; whole frames, and below them what was timed beside the frames."""
    header = ["stage", "ms/frame", "share", "calls", "mean", "min", "p50", "p90", "p99"]
    rates = report.products.get(case.setup.settings.threads, [])
    peak = float(np.median(rates)) if rates else 0.0
    if case.gflop:
        header += ["GFLOP/frame", "GFLOP/s", "of GEMM"]
    rows = []
    for stage, times in case.stages.items():
        rows.append((*_duration_cells(stage, times, case), *_roofline_cells(stage, times, case, peak)))
    if case.setup.kind == "bundle" and case.stages:
        rows.append((INDUCTION, "in decoder", *[""] * (len(header) - 2)))
    total = _rate_cells(sum(case.gflop.values()), case.amortised_frame_ms, peak) if case.gflop else ()
    rows.append((*_duration_cells("frame", case.frames, case), *total))
    for beside, times in (("decode", report.clip.decode), ("write", case.write), ("trunk alone", case.trunk)):
        if times:
            cells = _duration_cells(beside, times, case)
            rows.append((f"({beside})", "", "", *cells[3:], *[""] * (len(header) - len(cells))))
    return Grid(_title(name, case, report), tuple(header), rows, "; ".join(_remarks(case, report, peak)))


def _duration_cells(stage: str, times: Sequence[float], case: Measurement) -> tuple[str, ...]:
    summary, per_frame = Summary.of(times), sum(times) / len(case.frames)
    quantiles = (summary.mean, summary.min, summary.p50, summary.p90, summary.p99)
    share = per_frame / case.amortised_frame_ms
    return stage, f"{per_frame:.1f}", f"{share:.1%}", str(summary.calls), *(f"{v:.1f}" for v in quantiles)


def _roofline_cells(stage: str, times: Sequence[float], case: Measurement, peak: float) -> tuple[str, ...]:
    if not case.gflop:
        return ()
    if stage not in case.gflop:
        return ("", "", "")
    return _rate_cells(case.gflop[stage], sum(times) / len(case.frames), peak)


def _rate_cells(gflop: float, milliseconds: float, peak: float) -> tuple[str, ...]:
    rate = 1e3 * gflop / milliseconds
    return f"{gflop:.2f}", f"{rate:.0f}", f"{rate / peak:.0%}" if peak else ""


def _title(name: str, case: Measurement, report: BenchReport) -> str:
    setup, settings, (height, width) = case.setup, case.setup.settings, report.clip.size
    objects = f"{setup.objects} object{'' if setup.objects == 1 else 's'}"
    return (
        f"{name}: {width}x{height}, {objects}, memory {settings.memory}, interval {settings.interval}, "
        f"{settings.threads} threads, {setup.device}"
    )


def _remarks(case: Measurement, report: BenchReport, peak: float) -> Iterator[str]:
    yield f"{1e3 / case.amortised_frame_ms:.1f} frames/s over {len(case.rounds)} update periods"
    if crops := case.stages.get("backbone"):
        yield f"{len(crops) / len(case.frames):.1f} distinct windows per frame"
    if case.queued is not None:
        yield f"{case.queued:.1f} frames/s where the host works ahead"
    if case.setup.on_device:
        yield case.setup.choice.runs_on(report.environment.gpu)
    ratio = case.trunk_ratio()
    if ratio is not None:
        yield f"frame / trunk {as_text(ratio)}"
    warm = Summary.of(case.warm_up)
    yield f"kept apart: {case.fill_seconds:.1f} s to load and fill, {warm.calls} warm-up frames of {warm.mean:.1f} ms"
    if case.resident_mb is not None:
        yield f"resident {case.resident_mb:.0f} MB"
    if report.peak_mb is not None:
        yield f"peak of the process {report.peak_mb:.0f} MB"
    if peak:
        yield f"GEMM {peak:.0f} GFLOP/s"
    if not case.steady():
        yield unsteady(case)


def unsteady(case: Measurement) -> str:
    """The warning of a run that drifts."""
    change = drift(case.rounds.mean(axis=1).tolist())
    return f"UNSTEADY: the last third took {change:.2f} times as long as the first, beyond {DRIFT}; measure again"


def as_text(ratio: Ratio) -> str:
    """Value and 95 % interval."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f} (no interval: one round only, or no scipy)"
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


def comparison_grid(names: Sequence[str], cases: Sequence[Measurement]) -> Grid:
    """The cases side by side; a ratio above 1 is slower than what it is compared with."""
    header = ("case", "ms/frame", "p50", "p99", "frames/s", "frames timed", "time over that of", "ratio (95 %)")
    rows = []
    for number, (name, case) in enumerate(zip(names, cases, strict=True)):
        summary = Summary.of(case.frames)
        compared = (
            ("", "") if number == case.against else (names[case.against], as_text(case.ratio_to(cases[case.against])))
        )
        figures = (summary.mean, summary.p50, summary.p99, 1e3 / summary.mean)
        rows.append((name, *(f"{v:.1f}" for v in figures), str(summary.calls), *compared))
    return Grid("side by side, one update period of each in turn", header, rows)


def throughput_grid(throughput: Sequence[Throughput]) -> Grid:
    """Whole clips: how busy decoding, segmenting and writing were."""
    header = ("whole clips", "clips", "frames", "frames/s", "decode busy", "segment busy", "write busy", "held up by")
    rows = []
    for name, result in zip(case_names([t.setup for t in throughput]), throughput, strict=True):
        busy = (f"{occupation.busy / result.seconds:.1%}" for occupation in result.threads.values())
        rate = f"{result.frames_per_second:.1f}"
        rows.append((name, str(result.clips), str(result.frames), rate, *busy, result.bottleneck))
    caption = "each in a thread of its own; busy of the whole time, the rest waited for the others"
    return Grid("throughput", header, rows, caption)
