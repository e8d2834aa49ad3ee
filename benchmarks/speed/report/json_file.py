"""A measurement as JSON, and what is read back of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ValidationError

from ....errors import SettingsError
from ....files import replace_file
from ..bench import BenchReport
from ..clip import BenchClip
from ..durations import Summary
from ..measure import Measurement, Setup


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


def as_json(report: BenchReport) -> dict[str, Any]:
    """Everything measured: the first case's figures at the top, all cases under `cases`, durations in milliseconds."""
    cases = [_case(case, report) for case in report.cases]
    figures = ("amortised_frame_ms", "trunk_ms", "ratio", "ratio_interval", "frames_per_second", "steady")
    return {
        **{name: cases[0][name] for name in figures},
        "bundle": report.cases[0].setup.bundle,
        "fingerprint": report.cases[0].setup.fingerprint,
        "peak_mb": report.peak_mb,
        "gemm_gflops": {str(threads): float(np.median(rates)) for threads, rates in report.products.items()},
        "environment": dataclasses.asdict(report.environment),
        "decode": dataclasses.asdict(Summary.of(report.clip.decode)),
        "cases": cases,
        "throughput": [
            {
                "bundle": t.setup.bundle,
                "settings": comparable(t.setup, report.clip),
                "clips": t.clips,
                "frames": t.frames,
                "seconds": t.seconds,
                "frames_per_second": t.frames_per_second,
                "bottleneck": t.bottleneck,
                "threads": {name: {"busy": o.busy, "waiting": o.waiting} for name, o in t.threads.items()},
            }
            for t in report.throughput
        ],
    }


def _case(case: Measurement, report: BenchReport) -> dict[str, Any]:
    setup, ratio, compared = case.setup, case.trunk_ratio(), case.ratio_to(report.cases[case.against])
    return {
        "amortised_frame_ms": case.amortised_frame_ms,
        "trunk_ms": case.trunk_ms,
        "ratio": None if ratio is None else ratio.value,
        "ratio_interval": None if ratio is None else [ratio.low, ratio.high],
        "frames_per_second": 1e3 / case.amortised_frame_ms,
        "steady": case.steady(),
        "against": case.against,
        "ratio_to_against": compared.value,
        "ratio_to_against_interval": [compared.low, compared.high],
        "bundle": setup.bundle,
        "fingerprint": setup.fingerprint,
        "precision": setup.precision,
        "crop": list(setup.crop),
        "settings": comparable(setup, report.clip),
        "settings_hash": settings_hash(setup, report.clip),
        "fill_seconds": case.fill_seconds,
        "resident_mb": case.resident_mb,
        "warm_up": case.warm_up,
        "frame": dataclasses.asdict(Summary.of(case.frames)),
        "stages": {
            stage: {
                "ms_per_frame": sum(times) / len(case.frames),
                **dataclasses.asdict(Summary.of(times)),
                "gflop_per_frame": case.gflop.get(stage),
                "durations": times,
            }
            for stage, times in case.stages.items()
        },
        "write": dataclasses.asdict(Summary.of(case.write)),
        "frames": case.frames,
        "trunk": case.trunk,
    }


def write_json(report: BenchReport, path: Path) -> None:
    """Write the file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    replace_file(path, (json.dumps(as_json(report), indent=1) + "\n").encode())


class OldStage(BaseModel):
    """A stage of an earlier run."""

    ms_per_frame: float


class OldCase(BaseModel):
    """A case of an earlier run."""

    amortised_frame_ms: float
    trunk_ms: float | None
    bundle: str
    settings: dict[str, Any]
    stages: dict[str, OldStage]


class OldEnvironment(BaseModel):
    """What must agree of an earlier run's machine."""

    processor: str
    cores: int
    onnxruntime: str
    openvino: str


class OldReport(BaseModel):
    """What is read of an earlier run's file."""

    environment: OldEnvironment
    cases: list[OldCase]

    @classmethod
    def read(cls, path: Path) -> OldReport:
        """Read a file that `write_json` wrote.

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
