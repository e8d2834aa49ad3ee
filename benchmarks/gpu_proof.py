"""`python -m jointrt.benchmarks.gpu_proof`: every check that needs a GPU, and the speed table, in one call.

Needs torch with CUDA, numpy, OpenCV, pydantic and rich; the tests need pytest, pillow and safetensors too. From a bare
tree, call it through a symbolic link named `jointrt` whose parent is on PYTHONPATH. `--device cpu --tiny` rehearses it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..runtime.cuda_devices import query_cuda_driver
from ..runtime.errors import DeviceError, JointError
from .gpu_rows import TINY, Plan, Row, bundle_rows, matrix_peak, measure

TESTS = (
    "tests/gpu",
    "tests/runtime/test_device_geometry.py",
    "tests/runtime/test_device_segmenter.py",
    "tests/export/test_half_memory.py",
)
PYTEST_NEEDS = ("pytest", "PIL", "safetensors")


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


def headline(plan: Plan) -> tuple[str, float | None]:
    """Machine, versions and matrix products, and the peak in fp16, TFLOP/s."""
    if plan.device == "cpu":
        return f"rehearsal on the CPU, torch {torch.__version__}: durations mean nothing", None
    driver = query_cuda_driver()
    newest = "{}.{}".format(*driver.cuda_version or (0, 0))
    half, single = matrix_peak(torch.float16, plan.device), matrix_peak(torch.float32, plan.device)
    return (
        f"{driver.devices[0].name}, driver for CUDA {newest}, torch {torch.__version__} for CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}, matrix products {half:.0f} TFLOP/s fp16, {single:.0f} fp32, "
        f"{time.strftime('%Y-%m-%d')}",
        half,
    )


def run_tests(console: Console) -> int:
    """The tests' exit code; 0, and a line, where what they need is not installed."""
    missing = [name for name in PYTEST_NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        console.print(f"tests skipped: {', '.join(missing)} is not installed")
        return 0
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    return subprocess.run(command, cwd=root, check=False).returncode


def as_table(rows: list[Row], peak: float | None) -> Table:
    """Rows in their order; the share is of the measured fp16 matrix product."""
    table = Table("model", "objects", "technique", "ms p50", "ms p99", "frames/s", "of peak")
    for r in rows:
        rate = "" if r.rate is None else f"{r.rate:.1f}"
        share = "" if peak is None or r.gflop is None else f"{r.gflop / r.p50 / peak:.1%}"
        table.add_row(r.model, str(r.objects), r.technique, f"{r.p50:.2f}", f"{r.p99:.2f}", rate, share)
    return table


def main(arguments: list[str] | None = None) -> int:
    """Run tests and table; the exit code is the tests'.

    Raises:
        DeviceError: there is no usable GPU.
    """
    parser = argparse.ArgumentParser(description="Checks and speed on a GPU.")
    parser.add_argument("--models", default="paper,lite", help="comma-separated")
    parser.add_argument("--objects", default="1,8", help="comma-separated")
    parser.add_argument("--bundles", default="", help="bundles whose engines are timed too, comma-separated folders")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small network and frames")
    parser.add_argument("--no-tests", action="store_true", help="the table only")
    options = parser.parse_args(arguments)
    plan = dataclasses.replace(TINY if options.tiny else Plan(), device=options.device)
    if plan.device == "cuda":
        refuse_without_gpu()
    console = Console(width=140)
    title, peak = headline(plan)
    console.print(title)
    failed = 0 if options.no_tests else run_tests(console)
    counts = [int(n) for n in options.objects.split(",")]
    rows, skipped = [], []
    models = [(name, n) for name in options.models.split(",") for n in counts]
    for model, objects in track(models, "measuring", console=console):
        rows += list(measure(model, objects, plan))
        if plan.device == "cuda":
            torch.cuda.empty_cache()
    for folder in filter(None, options.bundles.split(",")):
        for objects in counts:
            try:
                rows += list(bundle_rows(folder, plan, objects))
            except JointError as error:
                skipped.append(f"{folder}, {objects} objects: skipped: {error}")
    console.print(as_table(rows, peak))
    for line in skipped or (["other backends: none timed; give --bundles"] if not options.bundles else []):
        console.print(line, soft_wrap=True)
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JointError as error:
        sys.exit(f"error: {error}")
