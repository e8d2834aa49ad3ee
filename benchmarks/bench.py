"""`jointrt bench`: where a frame's time goes, over whole update periods, beside the trunk alone in the same run."""

from __future__ import annotations

import dataclasses
import json
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ..runtime.bundle import Bundle
from ..runtime.engine import import_onnxruntime
from ..runtime.errors import OutputError, SettingsError
from ..runtime.masks import read_label_map
from ..runtime.segmenter import Segmenter
from ..runtime.sources import open_source
from .trunk import without_outputs

CLIP = Path(__file__).resolve().parent.parent / "examples" / "dog.mp4"
PERIODS = 6
"""Update periods that are timed."""
TRUNK_RUNS = 3
"""Runs of the trunk after each period: both see the same state of a noisy machine."""
DRIFT = 1.2
"""Ratio of the last to the first third's mean frame above which a run is called unsteady."""


@dataclass(slots=True)
class Measurement:
    """What one run measured; times in milliseconds.

    Attributes:
        frames: of every frame.
        stages: of every call of every stage.
        trunk: of every run of the trunk alone.
        peak_mb: largest resident set of the process.
    """

    bundle: str
    fingerprint: str
    settings: dict[str, Any]
    objects: int
    frame_size: tuple[int, int]
    frames: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    trunk: list[float] = field(default_factory=list)
    peak_mb: float = 0.0

    @property
    def amortised_frame_ms(self) -> float:
        """Mean over whole update periods: crop, engines, paste, aggregation and memory update."""
        return float(np.mean(self.frames))

    @property
    def trunk_ms(self) -> float:
        """Median of the trunk alone."""
        return float(np.median(self.trunk))

    def ratio_interval(self) -> tuple[float, float, float]:
        """Frame over trunk, with a 95 % bootstrap interval over update periods."""
        interval = self.settings["interval"]
        periods = np.array(self.frames).reshape(-1, interval).mean(1)
        trunk = np.median(np.array(self.trunk).reshape(-1, TRUNK_RUNS), axis=1)
        picks = np.random.default_rng(0).integers(0, len(periods), (2000, len(periods)))
        ratios = periods[picks].mean(1) / np.median(trunk[picks], axis=1)
        low, high = np.percentile(ratios, (2.5, 97.5))
        return self.amortised_frame_ms / self.trunk_ms, float(low), float(high)

    def is_steady(self) -> bool:
        """Whether the last third of the frames is about as fast as the first."""
        third = len(self.frames) // 3
        return float(np.mean(self.frames[-third:])) < DRIFT * float(np.mean(self.frames[:third]))


def read_clip(source: Path, mask: Path, objects: int, frames: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.uint8]]:
    """The first frames of a clip, decoded before anything is timed, and the mask of as many objects as asked for.

    Raises:
        SettingsError: the mask holds fewer objects.
    """
    labels = read_label_map(mask)
    ids = [int(i) for i in np.unique(labels) if i][::-1]
    if not 1 <= objects <= len(ids):
        raise SettingsError(f"objects is {objects}: {mask} holds {len(ids)}")
    labels = np.where(np.isin(labels, ids[:objects]), labels, 0).astype(np.uint8)
    return [frame.image for frame in open_source(source).frames(0, frames)], labels


def fill_memory(segmenter: Segmenter, frames: Iterator[NDArray[np.uint8]], labels: NDArray[np.uint8]) -> None:
    """Start the objects and update at every frame until the memory is full; ends at the beginning of a period."""
    settings = segmenter.settings
    _set_interval(segmenter, 1)
    segmenter.step(next(frames), labels)
    for _ in range(settings.memory + 1):
        segmenter.step(next(frames))
    _set_interval(segmenter, settings.interval)
    tracker = next(iter(segmenter._trackers.values()))
    while tracker.frame_count % settings.interval != settings.interval - 1 or tracker.frame_count < 3:
        segmenter.step(next(frames))


def _set_interval(segmenter: Segmenter, interval: int) -> None:
    segmenter.settings = dataclasses.replace(segmenter.settings, interval=interval)
    for tracker in segmenter._trackers.values():
        tracker.settings = segmenter.settings


def load_trunk(bundle: Bundle, threads: int) -> tuple[Any, dict[str, NDArray[np.float32]]]:
    """A session of the trunk alone, and its input."""
    ort = import_onnxruntime()
    record = bundle.manifest.graphs["backbone"]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    model = without_outputs(bundle.path(record.file).read_bytes(), {"x_tra", "x_ind"})
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = [1 if isinstance(n, str) else n for n in record.inputs[0].shape]
    crop = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    return session, {record.inputs[0].name: crop}


def measure(
    name: str | Path,
    *,
    source: Path = CLIP,
    mask: Path | None = None,
    objects: int = 1,
    periods: int = PERIODS,
    memory: int | None = None,
    interval: int | None = None,
    branches: str = "both",
    threads: int | None = None,
) -> Measurement:
    """Time whole update periods of a bundle at a full memory, the trunk alone between them.

    Raises:
        JointError: the bundle, the clip or a setting cannot be used.
    """
    bundle = Bundle.open(name)
    segmenter = Segmenter.load(name, memory=memory, interval=interval, branches=branches, threads=threads)
    settings = segmenter.settings
    images, labels = read_clip(source, mask or source.with_suffix(".png"), objects, 48)
    # Back and forth, so that an object never jumps.
    frames = cycle([*images, *images[-2:0:-1]])
    fill_memory(segmenter, frames, labels)
    session, feeds = load_trunk(bundle, settings.threads)
    result = Measurement(
        str(name),
        bundle.fingerprint,
        dataclasses.asdict(settings),
        objects,
        (images[0].shape[0], images[0].shape[1]),
    )
    for _ in range(2):
        session.run(None, feeds)
    for _ in range(settings.interval):
        segmenter.step(next(frames))
    segmenter.clock.enabled = True
    for _ in range(periods):
        for _ in range(settings.interval):
            start = time.perf_counter()
            segmenter.step(next(frames))
            result.frames.append(1e3 * (time.perf_counter() - start))
        for _ in range(TRUNK_RUNS):
            start = time.perf_counter()
            session.run(None, feeds)
            result.trunk.append(1e3 * (time.perf_counter() - start))
    result.stages = {stage: [1e3 * t for t in times] for stage, times in segmenter.clock.durations.items()}
    result.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return result


def as_table(result: Measurement) -> Table:
    """Stages with their share of a frame; whole frames below."""
    ratio, low, high = result.ratio_interval()
    settings = result.settings
    table = Table(
        title=f"{result.bundle}: {result.frame_size[1]}x{result.frame_size[0]}, {result.objects} object(s), "
        f"memory {settings['memory']}, interval {settings['interval']}, {settings['threads']} threads",
        caption=f"{1e3 / result.amortised_frame_ms:.1f} frames/s; trunk alone {result.trunk_ms:.1f} ms; "
        f"frame / trunk {ratio:.2f} (95 %: {low:.2f} to {high:.2f}); peak {result.peak_mb:.0f} MB"
        + ("" if result.is_steady() else "; UNSTEADY: the machine slowed down during the run"),
    )
    table.add_column("stage")
    for title in ("ms per frame", "share", "calls", "min", "p50", "p90", "p99"):
        table.add_column(title, justify="right")
    rows = {**result.stages, "frame": result.frames}
    for stage, times in rows.items():
        per_frame = sum(times) / len(result.frames)
        quantiles = (f"{v:.1f}" for v in np.percentile(times, (0, 50, 90, 99)))
        share = f"{per_frame / result.amortised_frame_ms:.1%}"
        table.add_row(stage, f"{per_frame:.1f}", share, str(len(times)), *quantiles)
    return table


def as_json(result: Measurement) -> dict[str, Any]:
    """Everything measured, the figures first, with the machine and the versions."""
    ratio, low, high = result.ratio_interval()
    return {
        "amortised_frame_ms": result.amortised_frame_ms,
        "trunk_ms": result.trunk_ms,
        "ratio": ratio,
        "ratio_interval": [low, high],
        "frames_per_second": 1e3 / result.amortised_frame_ms,
        "steady": result.is_steady(),
        **dataclasses.asdict(result),
        "environment": {
            "machine": platform.machine(),
            "processor": _processor(),
            "python": platform.python_version(),
            "onnxruntime": import_onnxruntime().__version__,
            "numpy": np.__version__,
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def write_json(results: list[Measurement], path: Path) -> None:
    """One run's figures at the top level; several under `runs`.

    Raises:
        OutputError: the file cannot be written.
    """
    values = [as_json(result) for result in results]
    content = values[0] if len(values) == 1 else {"runs": values}
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(json.dumps(content, indent=1) + "\n")
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
