"""`jointrt bench --device cuda`: a bundle on a device, host to host, over whole update periods at a full memory."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from ..runtime.bundle import Bundle
from ..runtime.device_backends import load_device_network
from ..runtime.device_segmenter import DeviceSegmenter
from ..runtime.errors import OutputError
from .bench import CLIP, read_clip


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
        backend: see `device_backends`.
        source: a clip.
        mask: its first mask; named like the clip if None.
        objects: of the mask, to follow.
        periods: update periods to time.
        options: see `Settings.resolve`.

    Raises:
        JointError: the bundle, the device, the clip or a setting cannot be used.
    """
    bundle = Bundle.open(name)
    network, runs_on = load_device_network(bundle, device=device, backend=backend, **options)
    segmenter, settings = DeviceSegmenter(network, runs_on), network.settings
    images, labels = read_clip(source, mask or source.with_suffix(".png"), objects, 48)
    frames = cycle([*images, *images[-2:0:-1]])
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
    size = (images[0].shape[0], images[0].shape[1])
    used = dataclasses.asdict(settings)
    return DeviceMeasurement(str(name), bundle.fingerprint, runs_on, used, objects, size, steps, queued)


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


def write_json(results: list[DeviceMeasurement], path: Path) -> None:
    """All runs.

    Raises:
        OutputError: the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        aside.write_text(json.dumps({"runs": [dataclasses.asdict(r) for r in results]}, indent=1) + "\n")
        aside.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None
