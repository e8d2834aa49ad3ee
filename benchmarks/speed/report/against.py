"""Two measurements of one machine and one choice of settings: what changed, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ....errors import SettingsError
from ....runtime.backends import Name
from ..bench import BenchReport
from ..clip import BenchClip
from ..environment import Environment
from ..measure import Measurement, Setup
from .json_file import CaseFigures, ReportFile, comparable
from .tables import Grid, case_names


def check_comparable(
    path: Path, old: ReportFile, environment: Environment, clip: BenchClip, setups: Sequence[Setup]
) -> None:
    """Refuse an earlier run whose durations say nothing about this one's.

    Raises:
        SettingsError: processor, cores, what ran the graphs or a case's settings differ; says how.
    """
    differences = list(_differences(old, environment, clip, setups))
    if differences:
        raise SettingsError(
            f"{path} cannot be compared with: {'; '.join(differences)}; measure both alike on one machine"
        )


def _differences(old: ReportFile, environment: Environment, clip: BenchClip, setups: Sequence[Setup]) -> Iterator[str]:
    used = {setup.choice.name for setup in setups if setup.kind == "bundle"}
    for name in ("processor", "cores", "gpu", *sorted({Name.ONNXRUNTIME, Name.OPENVINO, Name.TORCH} & used)):
        then, now = getattr(old.environment, name), getattr(environment, name)
        if then != now:
            yield f"{name} was {then}, is {now}"
    if len(old.cases) != len(setups):
        yield f"it holds {len(old.cases)} cases, this run {len(setups)}"
        return
    for number, (case, setup) in enumerate(zip(old.cases, setups, strict=True), 1):
        now = comparable(setup, clip)
        which = f"case {number}: " if len(setups) > 1 else ""
        for name in sorted({*now, *case.settings}):
            if case.settings.get(name) != now.get(name):
                then_text, now_text = (_short(values.get(name)) for values in (case.settings, now))
                yield f"{which}{name} was {then_text}, is {now_text}"


def _short(value: object) -> str:
    """Digests are cut: that they differ is all they tell."""
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def change_grids(old: ReportFile, report: BenchReport) -> list[Grid]:
    """Milliseconds per frame then and now, case by case."""
    names = case_names([case.setup for case in report.cases])
    pairs = zip(names, old.cases, report.cases, strict=True)
    return [_change_grid(name, before, case) for name, before, case in pairs]


def _change_grid(name: str, before: CaseFigures, case: Measurement) -> Grid:
    now = {stage: sum(times) / len(case.frames) for stage, times in case.stages.items()}
    then = {stage: values.ms_per_frame for stage, values in before.stages.items()}
    rows = [_change_row(stage, then.get(stage), now.get(stage)) for stage in dict.fromkeys((*then, *now))]
    rows.append(_change_row("frame", before.amortised_frame_ms, case.amortised_frame_ms))
    rows.append(_change_row("(trunk alone)", before.trunk_ms, case.trunk_ms))
    return Grid(
        f"{name}: change since {before.bundle}",
        ("stage", "ms/frame then", "now", "change"),
        rows,
        "runs at different times: where the trunk alone changed too, so did the machine"
        + ("" if before.bundle == case.setup.bundle else "; another bundle, whose trunk may differ"),
    )


def _change_row(stage: str, then: float | None, now: float | None) -> tuple[str, ...]:
    cells = ("-" if value is None else f"{value:.1f}" for value in (then, now))
    return stage, *cells, f"{now / then - 1:+.1%}" if then and now else "-"
