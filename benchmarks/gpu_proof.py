"""`python -m jointrt.benchmarks.gpu_proof`: every check that needs a GPU, and the speed table, in one call.

Each row of the table adds one technique; a frame's duration is measured between CUDA events over queued frames, memory
full, weights random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..export.reference import reference_defaults
from ..export.torch_segmenter import TorchSegmenter
from ..model.config import ModelConfig
from ..model.network import JointNet
from ..runtime.cuda_devices import query_cuda_driver
from ..runtime.errors import DeviceError
from ..runtime.settings import UPDATE_STEPS, Settings

FRAME_SIZE = (480, 854)
WARM_UP, MEASURED = 120, 200
TESTS = ("tests/gpu", "tests/export/test_torch_segmenter.py")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; durations in milliseconds per frame of all objects."""

    model: str
    objects: int
    technique: str
    p50: float
    p99: float


def durations(frame: Callable[[], object], warm_up: int, measured: int) -> list[float]:
    """Milliseconds of each of `measured` calls, by events on the device."""
    for _ in range(warm_up):
        frame()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(measured + 1)]
    events[0].record()
    for event in events[1:]:
        frame()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]


def row(model: str, objects: int, technique: str, times: list[float]) -> Row:
    """Median and 99th percentile."""
    return Row(model, objects, technique, statistics.median(times), float(np.percentile(times, 99)))


def matrix_peak(dtype: torch.dtype, size: int = 8192) -> float:
    """Measured TFLOP/s of a square matrix product."""
    a, b = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    return 2 * size**3 / (statistics.median(durations(lambda: torch.mm(a, b), 5, 20)) * 1e9)


def released_frame(net: JointNet, memory: int, *, cached: bool) -> Callable[[], None]:
    """The network's work at one frame as the released code orders it, eager fp32; one object.

    With `cached` the encoded memory is kept between frames and renewed, with three descent steps, at every fifth.
    """
    C, D, (h, w) = net.config.feature_channels, net.config.encoding_channels, net.config.feature_size
    z, E = torch.randn(1, memory, C, h, w, device="cuda"), torch.rand(1, memory, D, h, w, device="cuda")
    crop = 255 * torch.rand(1, 3, *net.config.crop_size, device="cuda")
    weights = torch.full((1, memory), 1 / memory, device="cuda")
    state = {"omega": torch.zeros(1, D, C, 3, 3, device="cuda"), "encoded": net.transformer.encode(z)}
    count = 0

    def frame() -> None:
        nonlocal count
        count += 1
        features = net.extract(crop)
        if count % 5 == 0:
            state["omega"] = net.target_model.fit(z, E, E, weights, state["omega"], UPDATE_STEPS)
        if not cached or count % 5 == 0:
            state["encoded"] = net.transformer.encode(z)
        encodings = net.transformer.decode(features.x_tra, state["encoded"], E)
        net.decoder(encodings + net.target_model(features.x_ind, state["omega"]), features.layers)

    return frame


def started_segmenter(net: JointNet, objects: int, precision: Literal["fp32", "fp16"]) -> TorchSegmenter:
    """A segmenter that follows squares in a frame of noise."""
    settings = Settings.resolve(reference_defaults(max_objects=objects))
    segmenter = TorchSegmenter(net, settings, "cuda", precision)
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME_SIZE, 3), dtype=np.uint8)
    mask = np.zeros(FRAME_SIZE, np.uint8)
    for i in range(objects):
        top, left = 40 + 220 * (i % 2), 30 + 200 * (i // 2)
        mask[top : top + 150, left : left + 120] = i + 1
    segmenter.step(frame, mask)
    return segmenter


@torch.no_grad()
def measure(model: str, objects: int) -> Iterator[Row]:
    """The rows of one model."""
    net = JointNet(ModelConfig.named(model)).eval().cuda().requires_grad_(False)
    if objects == 1:
        yield row(model, 1, "released algorithm, eager", durations(released_frame(net, 20, cached=False), 10, 30))
        yield row(model, 1, "+ encoded memory kept", durations(released_frame(net, 20, cached=True), 10, 50))
    precisions: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
    net = net.cpu()
    for precision in precisions:
        segmenter = started_segmenter(net, objects, precision)
        times = durations(segmenter.advance, WARM_UP, MEASURED)
        yield row(model, objects, f"+ incremental memory, whole frame captured, {precision}", times)
        update = segmenter.groups[0].remember
        yield row(model, objects, f"  of it one memory update, {precision}", durations(update, 5, 50))
        del segmenter, update
        torch.cuda.empty_cache()


def print_rows(rows: list[Row], console: Console) -> None:
    """The table."""
    table = Table("model", "objects", "technique", "ms p50", "ms p99", "frames/s")
    for r in rows:
        rate = "" if r.technique.startswith(" ") else f"{1000 / r.p50:.1f}"
        table.add_row(r.model, str(r.objects), r.technique, f"{r.p50:.2f}", f"{r.p99:.2f}", rate)
    console.print(table)


def main() -> int:
    """Run tests and table; the exit code is the tests'.

    Raises:
        DeviceError: there is no usable GPU.
    """
    parser = argparse.ArgumentParser(description="Checks and speed on a GPU.")
    parser.add_argument("--models", default="paper,lite", help="comma-separated")
    parser.add_argument("--objects", default="1,8", help="comma-separated")
    options = parser.parse_args()
    driver = query_cuda_driver()
    if driver.problem is not None or not torch.cuda.is_available():
        raise DeviceError(f"the GPU checks need a GPU and a torch with CUDA: {driver.problem or 'torch has none'}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    console = Console(width=120)
    console.print(
        f"{driver.devices[0].name}, driver for CUDA {driver.cuda_version}, torch {torch.__version__}, "
        f"matrix products {matrix_peak(torch.float16):.0f} TFLOP/s fp16, {matrix_peak(torch.float32):.0f} fp32"
    )
    root = Path(__file__).resolve().parent.parent
    tests = subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=root, check=False).returncode
    plan = [(model, int(n)) for model in options.models.split(",") for n in options.objects.split(",")]
    rows = [r for model, n in track(plan, "measuring", console=console) for r in measure(model, n)]
    print_rows(rows, console)
    return tests


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DeviceError as error:
        sys.exit(f"error: {error}")
