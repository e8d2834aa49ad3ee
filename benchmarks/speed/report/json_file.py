"""A measurement as JSON: one model that is written, and read back to compare with."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ValidationError

from ....errors import SettingsError
from ....files import replace_file
from ..bench import BenchReport
from ..clip import BenchClip
from ..durations import Summary
from ..environment import Environment
from ..measure import Measurement, Setup
from ..throughput import Throughput


def comparable(setup: Setup, clip: BenchClip) -> dict[str, Any]:
    """All that must agree before two durations are compared; the bundle itself may differ."""
    return {
        "kind": setup.kind,
        "device": setup.device,
        "backend": setup.backend,
        **dataclasses.asdict(setup.settings),
        "objects": setup.objects,
        "clip": clip.fingerprint,
        "frame_size": list(clip.size),
    }


def settings_hash(setup: Setup, clip: BenchClip) -> str:
    """Hex digest of `comparable`."""
    return hashlib.sha256(json.dumps(comparable(setup, clip), sort_keys=True).encode()).hexdigest()


class StageFigures(BaseModel):
    """A stage of a case: per frame, and of its calls in milliseconds."""

    ms_per_frame: float
    calls: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    gflop_per_frame: float | None
    durations: list[float]


class CaseFigures(BaseModel):
    """A case; see `Measurement`. Ratios stand beside their intervals, the frame's over the trunk's first."""

    amortised_frame_ms: float
    trunk_ms: float | None
    ratio: float | None
    ratio_interval: tuple[float | None, float | None] | None
    frames_per_second: float
    frames_per_second_queued: float | None = None
    steady: bool
    against: int
    ratio_to_against: float
    ratio_to_against_interval: tuple[float | None, float | None]
    bundle: str
    fingerprint: str
    precision: str
    crop: tuple[int, int]
    settings: dict[str, Any]
    settings_hash: str
    fill_seconds: float
    resident_mb: float | None
    warm_up: list[float]
    frame: Summary
    stages: dict[str, StageFigures]
    write: Summary
    frames: list[float]
    trunk: list[float]

    @classmethod
    def of(cls, case: Measurement, report: BenchReport) -> Self:
        """Of one of a report's cases."""
        setup, ratio, compared = case.setup, case.trunk_ratio(), case.ratio_to(report.cases[case.against])
        stages = {
            stage: StageFigures(
                ms_per_frame=sum(times) / len(case.frames),
                **dataclasses.asdict(Summary.of(times)),
                gflop_per_frame=case.gflop.get(stage),
                durations=times,
            )
            for stage, times in case.stages.items()
        }
        return cls(
            amortised_frame_ms=case.amortised_frame_ms,
            trunk_ms=case.trunk_ms,
            ratio=None if ratio is None else ratio.value,
            ratio_interval=None if ratio is None else (ratio.low, ratio.high),
            frames_per_second=1e3 / case.amortised_frame_ms,
            frames_per_second_queued=case.queued,
            steady=case.steady(),
            against=case.against,
            ratio_to_against=compared.value,
            ratio_to_against_interval=(compared.low, compared.high),
            bundle=setup.bundle,
            fingerprint=setup.fingerprint,
            precision=setup.precision,
            crop=setup.crop,
            settings=comparable(setup, report.clip),
            settings_hash=settings_hash(setup, report.clip),
            fill_seconds=case.fill_seconds,
            resident_mb=case.resident_mb,
            warm_up=case.warm_up,
            frame=Summary.of(case.frames),
            stages=stages,
            write=Summary.of(case.write),
            frames=case.frames,
            trunk=case.trunk,
        )


class ThroughputFigures(BaseModel):
    """Whole clips; see `Throughput`. `threads` has the seconds that each was busy and waiting."""

    bundle: str
    settings: dict[str, Any]
    clips: int
    frames: int
    seconds: float
    frames_per_second: float
    bottleneck: str
    threads: dict[str, dict[str, float]]

    @classmethod
    def of(cls, result: Throughput, clip: BenchClip) -> Self:
        """Of one bundle's run."""
        return cls(
            bundle=result.setup.bundle,
            settings=comparable(result.setup, clip),
            clips=result.clips,
            frames=result.frames,
            seconds=result.seconds,
            frames_per_second=result.frames_per_second,
            bottleneck=result.bottleneck,
            threads={name: {"busy": o.busy, "waiting": o.waiting} for name, o in result.threads.items()},
        )


class ReportFile(BaseModel):
    """Everything measured: the first case's figures at the top, all cases under `cases`, durations in milliseconds."""

    amortised_frame_ms: float
    trunk_ms: float | None
    ratio: float | None
    ratio_interval: tuple[float | None, float | None] | None
    frames_per_second: float
    steady: bool
    bundle: str
    fingerprint: str
    peak_mb: float | None
    gemm_gflops: dict[int, float]
    environment: Environment
    decode: Summary
    cases: list[CaseFigures]
    throughput: list[ThroughputFigures]

    @classmethod
    def of(cls, report: BenchReport) -> Self:
        """Of a measurement."""
        cases = [CaseFigures.of(case, report) for case in report.cases]
        return cls(
            **{name: value for name, value in cases[0] if name in cls.model_fields},
            peak_mb=report.peak_mb,
            gemm_gflops={threads: float(np.median(rates)) for threads, rates in report.products.items()},
            environment=report.environment,
            decode=Summary.of(report.clip.decode),
            cases=cases,
            throughput=[ThroughputFigures.of(result, report.clip) for result in report.throughput],
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote.

        Raises:
            SettingsError: it is none.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise SettingsError(f"{path} cannot be read: {error.strerror or error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise SettingsError(
                f"{path}: {where}: {first['msg']}: expected a file of this version's `jointrt bench --json`"
            ) from None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        replace_file(path, (self.model_dump_json(indent=1) + "\n").encode())
