"""What became of every clip: `report.jsonl` and `report.html`."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

SHOWN = 1000
"""Rows that the page shows, failures and others each; the lines hold all."""
COLUMNS = ("name", "state", "frames", "objects", "seconds", "worker", "retried", "bundle", "error")
WIDTH, HEIGHT = 720, 160


class Report:
    """Takes rows as they come; keeps counts, not rows."""

    def __init__(self, folder: Path) -> None:
        self.lines = folder / "report.jsonl"
        self.page = folder / "report.html"
        self.counts: Counter[str] = Counter()
        self.frames = 0
        self._per_second: Counter[int] = Counter()
        self._shown: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        self._stream = self.lines.open("w", encoding="utf-8")

    def add(self, row: dict[str, Any], at: float) -> None:
        """A clip ended `at` so many seconds after the start."""
        failed = row["error"] is not None
        row = {**row, "state": "failed" if failed else row["state"]}
        row = {key: row.get(key) for key in COLUMNS}
        self._stream.write(json.dumps(row) + "\n")
        self.counts[row["state"]] += 1
        if row["state"] == "segmented":
            self.frames += row["frames"]
            self._per_second[int(at)] += row["frames"]
        if len(self._shown[failed]) < SHOWN:
            self._shown[failed].append(row)

    def close(self, seconds: float) -> None:
        """Write the page."""
        self._stream.close()
        counts = ", ".join(f"{n} {state}" for state, n in sorted(self.counts.items()))
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape('' if row[c] is None else str(row[c]))}</td>" for c in COLUMNS) + "</tr>\n"
            for row in (*self._shown[True], *self._shown[False])
        )
        head = "".join(f"<th>{c}</th>" for c in COLUMNS)
        self.page.write_text(
            "<!doctype html><meta charset='utf-8'><title>Clips</title>"
            "<style>body{font:14px sans-serif;margin:2em}td,th{padding:2px 8px;text-align:left}</style>"
            f"<h1>Clips</h1><p>{escape(counts)}; {self.frames} frames in {seconds:.1f} s</p>{self._picture()}"
            f"<p>At most {SHOWN} failures and {SHOWN} others are shown; report.jsonl holds all.</p>"
            f"<table><tr>{head}</tr>\n{rows}</table>\n",
            encoding="utf-8",
        )

    def _picture(self) -> str:
        """Frames per second over time, each clip's counted where it ended."""
        last = max(self._per_second, default=0)
        step = last // 120 + 1
        bins = [0.0] * (last // step + 1)
        for second, frames in self._per_second.items():
            bins[second // step] += frames / step
        top = max(bins) or 1.0
        wide = WIDTH / len(bins)
        bars = "".join(
            f"<rect x='{i * wide:.1f}' y='{HEIGHT * (1 - b / top):.1f}' width='{wide:.1f}' "
            f"height='{HEIGHT * b / top:.1f}'/>"
            for i, b in enumerate(bins)
        )
        return (
            f"<figure><svg width='{WIDTH}' height='{HEIGHT}' fill='#47a'>{bars}</svg><figcaption>Frames per second, "
            f"up to {top:.1f}, over {last + 1} s</figcaption></figure>"
        )
