"""`jointrt bench --device cuda`: a bundle on a device, host to host, over whole update periods at a full memory."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ...errors import SettingsError
from ...files import replace_file
from ...runtime.bundle import Bundle
from ...runtime.segmenter import Segmenter
from .bench import BenchRequest
from .clip import CLIP, BenchClip
from .report.report import Outputs


@dataclass(frozen=True, slots=True)
class DeviceMeasurement:
    """What one run measured.

    Attributes:
        runs_on: backend and device.
        steps: milliseconds of single frames, each waited for.
        queued: frames per second when the host works ahead.
    """

    bundle: str
    fingerprint: str
    runs_on: str
    settings: dict[str, Any]
    objects: int
    frame_size: tuple[int, int]
    steps: list[float]
    queued: float


def measure_on_device(
    name: str,
    *,
    device: str,
    backend: str = "auto",
    source: Path = CLIP,
    mask: Path | None = None,
    objects: int = 1,
    periods: int = 6,
    **options: Any,
) -> DeviceMeasurement:
    """Time frames of a clip, played back and forth so that an object never jumps.

    Args:
        name: of a bundle, or its folder.
        device: "cuda", "cuda:1", ...
        backend: see `runtime.backends`.
        source: a clip.
        mask: its first mask; named like the clip if None.
        objects: of the mask, to follow.
        periods: update periods to time.
        options: see `Settings.resolve`.

    Raises:
        JointError: the bundle, the device, the clip or a setting cannot be used.
    """
    bundle = Bundle.open(name)
    clip = BenchClip.read(source, mask)
    labels = clip.mask(objects)
    segmenter = Segmenter.load(bundle, device=device, backend=backend, **options)
    settings = segmenter.settings
    frames = clip.frames()
    segmenter.step(next(frames), labels)
    # Ends at the beginning of a period, with all slots filled, and with whatever is captured captured.
    for _ in range(settings.interval * (settings.memory + 1) - 2):
        segmenter.step(next(frames))
    steps = []
    for _ in range(settings.interval * periods):
        begin = time.perf_counter()
        segmenter.step(next(frames))
        steps.append(1e3 * (time.perf_counter() - begin))
    begin = time.perf_counter()
    for _ in segmenter.stream(islice(frames, settings.interval * periods)):
        pass
    queued = settings.interval * periods / (time.perf_counter() - begin)
    used = dataclasses.asdict(settings)
    return DeviceMeasurement(str(name), bundle.fingerprint, segmenter.runs_on, used, objects, clip.size, steps, queued)


def run_request(request: BenchRequest, outputs: Outputs, *, device: str) -> None:
    """Time the bundles of a request at its sizes of the memory.

    Raises:
        SettingsError: it asks for what is measured on the CPU only.
    """
    several = {"backends": request.backends, "objects": request.objects, "threads": request.threads}
    unknown = [f"several {name}" for name, values in several.items() if len(values) > 1]
    given = {
        "crop": request.crops,
        "reference": request.reference,
        "weights": request.weights,
        "clips": request.clips,
        "plots": outputs.plots,
        "html": outputs.html,
        "against": outputs.against,
    }
    unknown += [f"--{name}" for name, value in given.items() if value]
    if unknown:
        raise SettingsError(f"{', '.join(unknown)}: measured on the CPU only; leave out, or leave out --device")
    outputs.check()
    run_on_device(
        request.bundles,
        memory=request.memory,
        json_file=outputs.json,
        device=device,
        backend=request.backends[0],
        source=request.source,
        mask=request.mask,
        objects=request.objects[0],
        periods=request.periods,
        interval=request.interval,
        branches=request.branches,
        threads=request.threads[0] if request.threads else None,
    )


def run_on_device(
    bundles: Sequence[str], *, memory: Sequence[int] = (), json_file: Path | None = None, **options: Any
) -> None:
    """Measure every bundle at every size of the memory, show a table of each, write the figures.

    Args:
        bundles: names or folders.
        memory: sizes; the bundle's own if empty.
        json_file: where the figures go.
        options: see `measure_on_device`.
    """
    console = Console()
    console.width = max(console.width, 100)
    results = []
    for name in bundles:
        for size in memory or (None,):
            with console.status(f"timing {name}"):
                results.append(measure_on_device(name, memory=size, **options))
            console.print(as_table(results[-1]))
    if json_file is not None:
        content = {"runs": [dataclasses.asdict(r) for r in results]}
        replace_file(json_file, (json.dumps(content, indent=1) + "\n").encode())


def as_table(result: DeviceMeasurement) -> Table:
    """One line: latency of single frames, and the rate of queued ones."""
    settings, (height, width) = result.settings, result.frame_size
    table = Table(
        title=f"{result.bundle}: {width}x{height}, {result.objects} object(s), memory {settings['memory']}, interval "
        f"{settings['interval']}",
        caption=result.runs_on,
    )
    for heading in ("frame, ms mean", "p50", "p90", "p99", "frames/s, waited for", "frames/s, queued"):
        table.add_column(heading, justify="right")
    quantiles = (f"{v:.2f}" for v in np.percentile(result.steps, (50, 90, 99)))
    mean = float(np.mean(result.steps))
    table.add_row(f"{mean:.2f}", *quantiles, f"{1e3 / mean:.1f}", f"{result.queued:.1f}")
    return table
