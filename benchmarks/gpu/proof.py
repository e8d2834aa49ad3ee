"""`python -m jointrt.benchmarks.gpu.proof`: the speed table, and every check that needs a GPU, in one call.

Needs torch with CUDA, numpy, OpenCV (crops of first frames), pydantic (manifests) and safetensors; the tests need
pytest and pillow too, and skip the shipped clip without ONNX Runtime. From a bare tree, call it through a
symbolic link named `jointrt` whose parent is on PYTHONPATH. `--device cpu --tiny` rehearses it.

The table comes first and the tests last. Whatever is found is written to the folder that `--out` names at once, so that
a run that is cut off leaves it: `proof.json` anew after each row, whole tracebacks in `tracebacks.txt`, where a part
hung in `hangs.txt`, the tests' output in `tests.txt` and their report in `tests.xml`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ...errors import DeviceError, JointError
from ...files import replace_file
from ...model.config import ModelConfig
from ...runtime.device.cuda_driver import query_cuda_driver
from .parts import (
    LIMIT,
    STEPS,
    TECHNIQUES,
    VIDEOS,
    Outcome,
    Part,
    measured,
    parts_of_bundle,
    parts_of_card,
    parts_of_model,
)
from .rows import TINY, Plan, Row

TESTS = (
    "tests/gpu",
    "tests/runtime/device/test_geometry.py",
    "tests/runtime/device/test_epilogues.py",
    "tests/runtime/device/test_follower.py",
    "tests/export/graphs/test_half_memory.py",
    "tests/export/graphs/test_half_precision.py",
    "tests/runtime/device/test_frame_work.py",
    # A processor in fp32 leads, which takes nearly a minute for each clip.
    "tests/runtime/device/test_goldens.py",
)
PYTEST_NEEDS = ("pytest", "PIL", "safetensors")
LINE = "{:<12} {:>3}  {:<58} {:>9} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9}"
HEADS = ("model", "obj", "technique", "ms mean", "p50", "p99", "frames/s", "of peak", "faster", "memory")
"""The peak is the fp16 matrix product's, "faster" a ratio to the released algorithm, memory what torch holds."""


def refuse_without_gpu() -> None:
    """Look at driver and torch.

    Raises:
        DeviceError: there is no usable GPU.
    """
    driver = query_cuda_driver()
    if driver.problem is not None or not torch.cuda.is_available():
        raise DeviceError(
            f"the GPU checks need a GPU and a torch with CUDA: {driver.problem or 'this torch has none'}; "
            "--device cpu --tiny rehearses them"
        )


def machine(device: str) -> dict[str, Any]:
    """What is measured on, and with what."""
    driver = query_cuda_driver()
    return {
        "device": driver.devices[0].name if device == "cuda" else "CPU: a rehearsal, durations mean nothing",
        "driver_cuda": None if driver.cuda_version is None else "{}.{}".format(*driver.cuda_version),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def tests_command(report: Path) -> list[str]:
    """What runs the tests on a GPU and writes their report.

    The project's own options ask for a plugin that such a machine need not have; and what cannot be imported there must
    not take the others along. Tests of both devices run on the GPU only.
    """
    plain = ["-o", "addopts=--import-mode=importlib", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    options = [*plain, "-v", "--durations=12", "-k", "cuda or not cpu", f"--junitxml={report}"]
    return [sys.executable, "-m", "pytest", *options, *TESTS]


def run_tests(limit: float, out: Path) -> dict[str, Any]:
    """What the tests found; see `read_report`; or the problem that kept them from running to their end.

    Args:
        limit: seconds, after which they are interrupted, which leaves a report of those that ran.
        out: where `tests.txt` and `tests.xml` go.
    """
    missing = [name for name in PYTEST_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        return {"problem": f"not run: {', '.join(missing)} is not installed"}
    root = Path(__file__).resolve().parents[2]
    paths = [str(Path(entry).resolve()) for entry in sys.path if entry]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    report = (out / "tests.xml").resolve()
    report.unlink(missing_ok=True)
    problem = None
    with (out / "tests.txt").open("wb") as log:
        process = subprocess.Popen(
            tests_command(report), cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            problem = f"ended after {limit:.0f} s, unfinished"
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    if not report.is_file():
        return {"problem": problem or f"pytest ended with {process.returncode} and left no report"}
    return read_report(report) | {"problem": problem}


def read_report(path: Path) -> dict[str, Any]:
    """From pytest's report: how many passed, how many were skipped for each reason, and which failed."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    failed = [f"{c.get('classname')}::{c.get('name')}" for c in cases if c.find("failure") is not None]
    failed += [f"{c.get('classname')}::{c.get('name')}" for c in cases if c.find("error") is not None]
    skips = (case.find("skipped") for case in cases)
    skipped = Counter(skip.get("message", "") for skip in skips if skip is not None)
    passed = len(cases) - len(failed) - skipped.total()
    return {"passed": passed, "skipped": dict(skipped), "failed": failed, "problem": None}


def shown(value: float | None, form: str) -> str:
    """A figure, or nothing."""
    return "" if value is None else form.format(value)


class Table:
    """Rows that refer to earlier ones: the card's peak, and the released algorithm."""

    def __init__(self) -> None:
        self.rows: dict[Part, Row] = {}
        self.problems: dict[Part, str] = {}

    def add(self, outcome: Outcome) -> str:
        """The outcome's line."""
        part, row = outcome.part, outcome.row
        name = (Path(part.model).name, part.objects or "", part.technique)
        if row is None:
            self.problems[part] = outcome.problem or "no reason given"
            return LINE.format(*name, *[""] * 7).rstrip() + f"  {self.problems[part]}"
        self.rows[part] = row
        return self.line(part)

    def line(self, part: Part) -> str:
        """What is known of a part that was measured."""
        row = self.rows[part]
        name = (Path(part.model).name, part.objects or "", part.technique)
        times = (shown(value, "{:.3f}") for value in (row.mean, row.p50, row.p99))
        ratios = shown(self.share(row), "{:.1%}"), shown(self.faster(part), "{:.1f}x")
        return LINE.format(*name, *times, shown(row.rate, "{:.1f}"), *ratios, shown(row.reserved, "{:.0f} MB"))

    def lines(self) -> list[str]:
        """All rows, model by model, as one technique follows another."""
        order = list(TECHNIQUES)
        models = list(dict.fromkeys((part.model, part.objects) for part in self.rows))
        ordered = sorted(self.rows, key=lambda p: (models.index((p.model, p.objects)), order.index(p.key)))
        return [self.line(part) for part in ordered]

    def peak(self) -> float | None:
        """GFLOP per millisecond of the fp16 matrix product."""
        row = self.rows.get(parts_of_card()[0])
        return None if row is None or row.gflop is None else row.gflop / row.mean

    def share(self, row: Row) -> float | None:
        """Of the peak."""
        peak = self.peak()
        return None if peak is None or row.gflop is None else row.gflop / row.mean / peak

    def faster(self, part: Part) -> float | None:
        """How many times as many frames per second as the released algorithm has."""
        row, released = self.rows[part], self.rows.get(Part(part.model, part.objects, "released"))
        if released is None or released.rate is None or row.rate is None:
            return None
        return row.rate / released.rate

    def fastest(self, keys: Collection[str]) -> Part | None:
        """Of the rows of `paper` with one object that have such keys."""
        parts = [part for part in self.rows if part.key in keys and (part.model, part.objects) == ("paper", 1)]
        return min(parts, key=lambda part: self.rows[part].mean, default=None)

    def floors(self) -> list[str]:
        """What was aimed at for `paper` with one object, and whether it was reached."""
        figures: list[tuple[str, float | None, float, bool]] = []
        if (one := self.fastest(STEPS)) is not None:
            figures.append(("frames/s, floor 150", self.rows[one].rate, 150, True))
            figures.append(("frames/s, aim 400", self.rows[one].rate, 400, True))
            figures.append(("times the released algorithm, floor 20", self.faster(one), 20, True))
        if (three := self.fastest(("three",))) is not None:
            figures.append(("ms for 3 few-shot steps, at most 1.5", self.rows[three].mean, 1.5, False))
        if (videos := self.fastest(VIDEOS)) is not None:
            figures.append(("frames/s over videos in one batch, aim 1000", self.rows[videos].rate, 1000, True))
        lines = []
        for name, found, limit, least in figures:
            if found is not None:
                lines.append(f"paper: {found:.1f} {name}: {'reached' if (found >= limit) is least else 'MISSED'}")
        return lines

    def to_json(self) -> list[dict[str, Any]]:
        """All parts, measured or not."""
        found = [
            dataclasses.asdict(part) | dataclasses.asdict(row) | {"rate": row.rate, "share_of_peak": self.share(row)}
            for part, row in self.rows.items()
        ]
        return found + [dataclasses.asdict(part) | {"problem": text} for part, text in self.problems.items()]


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Checks and speed on a GPU.")
    parser.add_argument("--models", default="paper,lite", help="comma-separated")
    parser.add_argument("--objects", default="1,8", help="comma-separated")
    parser.add_argument("--techniques", default="", help=f"only these, comma-separated: of {', '.join(TECHNIQUES)}")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that one part may take (%(default).0f)")
    parser.add_argument("--bundles", default="", help="bundles whose engines are timed too, comma-separated folders")
    parser.add_argument("--out", type=Path, required=True, help="folder where everything that is found goes")
    parser.add_argument("--minutes", type=float, default=8, help="after which what is left is given up")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small network and frames")
    parser.add_argument("--no-tests", action="store_true", help="the table only")
    parser.add_argument("--no-table", action="store_true", help="the tests only")
    return parser.parse_args(arguments)


def parts_wanted(options: argparse.Namespace) -> list[Part]:
    """The first model's first row, what the card can do at best, then everything else.

    Raises:
        ValueError: no model or technique has such a name.
    """
    if options.no_table:
        return []
    models, counts = options.models.split(","), [int(n) for n in options.objects.split(",")]
    for model in models:
        ModelConfig.named(model)
    first, *more = [part for model in models for n in counts for part in parts_of_model(model, n, options.device)]
    for folder in filter(None, options.bundles.split(",")):
        more += [p for n in counts for p in parts_of_bundle(folder, n, options.device)]
    parts = [first, *parts_of_card(), *more]
    wanted = options.techniques.split(",") if options.techniques else list(TECHNIQUES)
    if unknown := set(wanted) - set(TECHNIQUES):
        raise ValueError(f"no technique is called {', '.join(sorted(unknown))}: expected of {', '.join(TECHNIQUES)}")
    return [part for part in parts if part.key in wanted]


def main(arguments: list[str] | None = None) -> int:
    """Run table and tests. The exit code is 1 if a test failed, or if they were asked for and not all run.

    Raises:
        DeviceError: there is no usable GPU.
        OutputError: the results cannot be written.
        ValueError: no model has such a name.
    """
    options = read_arguments(arguments)
    begin = time.monotonic()
    end = begin + 60 * options.minutes
    parts = parts_wanted(options)
    plan = dataclasses.replace(TINY if options.tiny else Plan(), device=options.device)
    if plan.device == "cuda":
        refuse_without_gpu()
    options.out.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"machine": machine(plan.device), "plan": dataclasses.asdict(plan), "tests": None}

    def write() -> None:
        replace_file(options.out / "proof.json", (json.dumps(content, indent=1) + "\n").encode())

    print(", ".join(f"{name} {value}" for name, value in content["machine"].items()), flush=True)
    table = Table()
    # The tests get what the table leaves, a third of the time at least.
    until = end if options.no_tests else end - (end - begin) / 3
    print(LINE.format(*HEADS), flush=True)
    for outcome in measured(parts, plan, until, limit=options.limit, hangs=options.out / "hangs.txt"):
        print(table.add(outcome), flush=True)
        if outcome.trace is not None:
            with (options.out / "tracebacks.txt").open("a") as file:
                file.write(f"{outcome.part}\n{outcome.trace}\n")
        content |= {"rows": table.to_json(), "floors": table.floors() if plan.device == "cuda" else []}
        write()
    print("\n".join(["", LINE.format(*HEADS), *table.lines(), *content.get("floors", [])]), flush=True)
    if options.no_tests:
        return 0
    tests = content["tests"] = run_tests(end - time.monotonic(), options.out)
    write()
    print(f"tests: {tests}", flush=True)
    return int(bool(tests["problem"] or tests["failed"]))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (JointError, ValueError) as error:
        sys.exit(f"error: {error}")
