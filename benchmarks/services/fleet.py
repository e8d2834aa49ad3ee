"""What a batch's driver needs for very many clips: `python -m jointrt.benchmarks.services.fleet --rows 1000000`.

Everything is what `jointrt batch` has, a real Ray included, but for the work: a worker answers at once with a row like
that of a clip of ten seconds. So it shows what the driver costs, in memory and per clip, and no worker's speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...fleet.batch import run_batch
from ...fleet.table import Clip
from ...fleet.worker import Plan, Worker
from ...runtime.job.run import Request
from ..speed.environment import peak_mb, resident_mb

FRAMES = 240
"""Of a clip of ten seconds."""


class FakeWorker(Worker):
    """Does nothing, and says what one says that did."""

    def ready(self) -> str:
        """See `Worker.ready`."""
        return self.name

    def segment(self, clip: Clip, contents: Mapping[str, bytes]) -> dict[str, Any]:
        """See `Worker.segment`."""
        done = {"frames": FRAMES, "objects": 1, "state": "segmented", "error": None, "seconds": 8.125}
        return {"name": clip.name, **done, "worker": self.name, "bundle": self.plan.request.bundle}


class Observer:
    """Notes the driver's memory as the batch goes on."""

    def __init__(self) -> None:
        self.resident: list[float | None] = []
        self.began = time.perf_counter()
        self.row: dict[str, Any] = {}
        self._ended = 0

    def note(self, text: str) -> None:
        """See `batch.Watcher`."""

    def begin(self, total: int, workers: list[str]) -> None:
        """See `batch.Watcher`."""
        self.every = max(1, total // 10)
        self.resident.append(resident_mb())
        self.began = time.perf_counter()

    def ended(self, row: dict[str, Any]) -> None:
        """See `batch.Watcher`."""
        self._ended += 1
        self.row = row
        if self._ended % self.every == 0:
            self.resident.append(resident_mb())
            sys.stderr.write(f"{self._ended} rows, {time.perf_counter() - self.began:.0f} s, {self.resident[-1]} MB\n")


def write_table(file: Path, rows: int) -> None:
    """A table of so many clips on a store."""
    with file.open("w", encoding="utf-8") as stream:
        stream.write("video,mask,name,end\n")
        for n in range(rows):
            place = f"s3://a-bucket-of-clips/2026/11/{n // 10_000:04d}/clip-{n:07d}"
            stream.write(f"{place}.mp4,{place}.png,clip-{n:07d},{FRAMES}\n")


def simulate(rows: int, workers: int, videos: int, folder: Path) -> dict[str, Any]:
    """Run a batch of so many rows, so many on their way at each worker; figures as JSON can hold them."""
    from ray import cloudpickle

    table, watcher, nowhere = folder / "clips.csv", Observer(), Path()
    write_table(table, rows)
    request = Request(source=nowhere, mask=nowhere, out=nowhere, bundle="lite", threads=1, backend="torch")
    began = time.perf_counter()
    plan = Plan(request, str(folder / "out"), "png", False, videos)
    report = run_batch(str(table), plan, watcher, workers=workers, worker=FakeWorker)
    place = "s3://a-bucket-of-clips/2026/11/0000/clip-0000000"
    clip = Clip("clip-0000000", f"{place}.mp4", f"{place}.png", end=FRAMES, length=FRAMES)
    return {
        "rows": sum(report.counts.values()),
        "workers": workers,
        "videos": videos,
        "seconds": time.perf_counter() - began,
        "rows_per_second": rows / (time.perf_counter() - watcher.began),
        "driver_peak_mb": peak_mb(),
        "driver_mb_by_tenth": watcher.resident,
        "table_mb": table.stat().st_size / 1e6,
        "report_mb": (folder / "out" / "report.jsonl").stat().st_size / 1e6,
        "bytes_to_a_worker": len(cloudpickle.dumps((clip, {}))),
        "bytes_from_a_worker": len(cloudpickle.dumps(watcher.row)),
    }


def main() -> None:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--videos", type=int, default=1, help="on their way at each worker: stands for more workers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jointrt-") as folder:
        print(json.dumps(simulate(options.rows, options.workers, options.videos, Path(folder)), indent=1))


if __name__ == "__main__":
    main()
