"""What became of every clip: `report.jsonl` and `report.html`."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jinja2

from ..errors import OutputError
from ..files import write_whole
from .stores import open_store, told_of

SHOWN = 1000
"""Rows that the page shows, failures and others each; the lines hold all."""
COLUMNS = ("name", "state", "frames", "objects", "seconds", "worker", "retried", "bundle", "error")
FAILED_COLUMNS = ("name", "error", "seconds", "worker")
DONE_COLUMNS = ("name", "state", "frames", "objects", "seconds", "worker", "retried")
NUMBERS = ("frames", "objects", "seconds")
WIDTH, HEIGHT, BARS = 720, 160, 120
"""Of the picture of the throughput, in pixels, and its bars at most."""


TIME_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10_800, 21_600)
"""Seconds between two ticks."""


class Report:
    """Takes rows as they come; keeps counts, not rows."""

    def __init__(self, folder: Path) -> None:
        self.lines = folder / "report.jsonl"
        self.page = folder / "report.html"
        self.counts: Counter[str] = Counter()
        self.frames = 0
        self._per_second: dict[int, float] = {}
        self._shown: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        self._stream = self.lines.open("w", encoding="utf-8")

    def add(self, row: dict[str, Any], at: float) -> None:
        """A clip ended, so many seconds after the workers were there."""
        failed = row["error"] is not None
        row = {**row, "state": "failed" if failed else row["state"]}
        row = {key: row.get(key) for key in COLUMNS}
        self._stream.write(json.dumps(row) + "\n")
        self.counts[row["state"]] += 1
        if row["state"] == "segmented":
            self.frames += row["frames"]
            self._spread(row["frames"], max(0.0, at - row["seconds"]), at)
        if len(self._shown[failed]) < SHOWN:
            self._shown[failed].append(row)

    def _spread(self, frames: int, begin: float, end: float) -> None:
        """Count frames in the seconds between two times, the same in each."""
        first, last = int(begin), max(int(begin), math.ceil(end) - 1)
        rate = frames / max(end - begin, 1e-6)
        for second in range(first, last + 1):
            here = rate * (min(end, second + 1) - max(begin, second))
            self._per_second[second] = self._per_second.get(second, 0.0) + here

    def close(self, facts: Mapping[str, str], seconds: float) -> None:
        """Write the page.

        Args:
            facts: of the whole batch, to stand above.
            seconds: from when the workers were there.
        """
        self._stream.close()
        failed = self.counts["failed"]
        done = self.counts.total() - failed
        told = {state: str(number) for state, number in sorted(self.counts.items()) if number}
        told["frames"] = f"{self.frames} in {seconds:.1f} s, {self.frames / max(seconds, 1e-6):.1f} frames/s"
        template = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined).from_string(
            Path(__file__).with_name("report.html").read_text(encoding="utf-8")
        )
        page = template.render(
            title=f"{failed + done} clips",
            facts={**told, **facts},
            chart=throughput_chart(self._per_second) if self.frames else None,
            parts=[
                {"title": title, "failed": bad, "all": count, "columns": columns, "rows": self._shown[bad]}
                for title, bad, count, columns in (
                    ("Failed", True, failed, FAILED_COLUMNS),
                    ("Done", False, done, DONE_COLUMNS),
                )
            ],
            numbers=NUMBERS,
        )
        self.page.write_text(page, encoding="utf-8")

    def keep(self, out: str) -> None:
        """Put both files into a folder or URL, each whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        files, root = open_store(out)
        with told_of(out, "cannot take the report; clips that are done stay, --resume does the rest", OutputError):
            files.makedirs(root, exist_ok=True)
            for file in (self.lines, self.page):
                if "file" in files.protocol:
                    write_whole(Path(root, file.name), partial(shutil.copyfile, file))
                else:
                    files.put_file(str(file), f"{root.rstrip('/')}/{file.name}")


def throughput_chart(per_second: Mapping[int, float]) -> dict[str, Any]:
    """A picture of frames per second over time: bars, and ticks of both axes, in pixels from the upper left corner."""
    seconds = max(per_second) + 1
    step = math.ceil(seconds / BARS)
    bins = [0.0] * math.ceil(seconds / step)
    for second, frames in per_second.items():
        bins[second // step] += frames / min(step, seconds - second // step * step)
    unit = tick_step(max(bins), 4)
    top = unit * math.ceil(max(bins) / unit)
    wide = WIDTH / len(bins)
    pace = next((s for s in TIME_STEPS if 8 * s >= seconds), tick_step(seconds / 3600, 8) * 3600)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "bars": [
            {"x": round(i * wide, 1), "y": round(HEIGHT * (1 - b / top), 1), "width": round(wide, 1)}
            | {"height": round(HEIGHT * b / top, 1)}
            for i, b in enumerate(bins)
        ],
        "rates": [
            {"at": round(HEIGHT * (1 - n * unit / top), 1), "label": f"{n * unit:g}"}
            for n in range(round(top / unit) + 1)
        ],
        "times": [
            {"at": round(t / (len(bins) * step) * WIDTH, 1), "label": duration(t)}
            for t in (n * pace for n in range(int(seconds / pace) + 1))
        ],
    }


def tick_step(largest: float, most: int) -> float:
    """The step of 1, 2 or 5 times a power of ten that divides 0 to `largest` into at most so many."""
    power = 10.0 ** math.floor(math.log10(largest / most))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power * most >= largest)


def duration(seconds: float) -> str:
    """In words: "45 s", "3:20 min", "2:05 h"."""
    if seconds < 60:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"
