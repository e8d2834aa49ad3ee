"""`python -m jointrt.benchmarks.gpu.probe OUT [SECTION ...]`: where a captured frame's time goes, and what would pay.

For a GPU's first minutes: kernels of a frame by name, attention's kernels side by side, convolutions with and without
cuDNN's fused bias and ReLU, geometry and engines through Inductor. Every section is guarded, and what it finds, a whole
traceback included, is written to OUT/probe.txt at once. `--device cpu --tiny` rehearses it.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor
from torch._C._autograd import DeviceType
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from ...runtime.device.engines.functions import arithmetic
from ...runtime.device.engines.torch import TorchEngine
from ...runtime.device.frame_work import compiled
from ...runtime.device.replay import Replay
from ...runtime.device.video_batch import VideoBatch
from .parts import STEPS
from .proof import refuse_without_gpu
from .rows import TINY, Plan, build_net, durations, filled, frame_times, on_device, update_times

_ROWS = 70
"""Kernels that are listed."""


class Probe:
    """What sections share: a batch whose memory is full, and where they write."""

    def __init__(self, plan: Plan, log: TextIO, compiled: bool) -> None:
        self.plan, self.log = plan, log
        self.cuda = plan.device == "cuda"
        step = STEPS["engines_compiled" if compiled else "overlapped"]
        network = on_device(build_net("paper" if self.cuda else "lite", plan), plan, **step)
        self.batch: VideoBatch = filled(network, plan, 1)

    def say(self, text: str) -> None:
        """To the terminal and the file."""
        for file in (sys.stdout, self.log):
            print(text, file=file, flush=True)

    def microseconds(self, call: Callable[[], object]) -> float:
        """Of one call among several in a CUDA graph."""
        calls, repeats = (20, 10) if self.cuda else (1, 2)
        lane = self.batch.network.lane
        replay = Replay(lane, lane.scratch(), capturable=True)

        def several() -> None:
            for _ in range(calls):
                call()

        with lane.work(), arithmetic():
            times = durations(lambda: replay(several), 3, repeats, self.plan.device)
        return 1e3 * sorted(times)[len(times) // 2] / calls

    def half(self, *shape: int) -> Tensor:
        """Random numbers, fp16."""
        return torch.randn(shape, device=self.plan.device).half()


def speed(probe: Probe) -> None:
    """Frames over whole periods, twice, and an update."""
    for _ in range(2):
        times = frame_times(probe.batch, probe.plan)
        probe.say(f"frame {sum(times) / len(times):.3f} ms, median {sorted(times)[len(times) // 2]:.3f}")
    times = update_times(probe.batch, probe.plan)
    probe.say(f"update {sum(times) / len(times):.3f} ms")


def kernels(probe: Probe) -> None:
    """Of two periods, by name."""
    frames = 2 * probe.plan.interval
    activity = ProfilerActivity.CUDA if probe.cuda else ProfilerActivity.CPU
    with probe.batch.network.lane.work(), profile(activities=[activity]) as found:
        for _ in range(frames):
            probe.batch.advance()
        probe.batch.network.lane.wait()
    rows: dict[str, list[float]] = defaultdict(list)
    for event in found.events() or []:
        if not probe.cuda or event.device_type == DeviceType.CUDA:
            rows[event.name[:110]].append(event.device_time_total if probe.cuda else event.cpu_time_total)
    count, busy = sum(map(len, rows.values())) / frames, sum(map(sum, rows.values())) / frames
    probe.say(f"{count:.0f} kernels a frame, busy for {busy / 1e3:.3f} ms, updates shared out")
    for name, times in sorted(rows.items(), key=lambda row: -sum(row[1]))[:_ROWS]:
        probe.say(f"{sum(times) / frames:9.2f} us {len(times) / frames:7.1f} x  {name}")


def attention(probe: Probe) -> None:
    """The memory read's, by backend; and how far each is from fp32."""
    queries, keys, width = (1560, 31200, 128) if probe.cuda else (24, 72, 16)
    q, k = (5.5 * F.normalize(probe.half(1, 1, n, width).float(), dim=-1).half() for n in (queries, keys))
    v = probe.half(1, 1, keys, width)
    exact = torch.softmax(q.float() @ k.float().mT, -1) @ v.float()

    def read() -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)

    backends = (None, SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    for backend in backends:
        try:
            with sdpa_kernel([b for b in backends if b is not None] if backend is None else backend):
                error = float((read().float() - exact).norm() / exact.norm())
                probe.say(f"{backend or 'as torch chooses'}: {probe.microseconds(read):.1f} us, {error:.1e} off")
        except RuntimeError as error:
            probe.say(f"{backend}: {str(error)[:200]}")


def convolutions(probe: Probe) -> None:
    """Bias and ReLU as kernels of their own and in cuDNN's call, which must give no NaN of memory that held one."""
    shapes = ((64, 64, 3, 120, 208), (128, 128, 3, 60, 104), (256, 1024, 1, 30, 52), (512, 512, 3, 15, 26))
    for channels, out, side, height, width in shapes if probe.cuda else shapes[:1]:
        x, weight = probe.half(1, channels, height, width), probe.half(out, channels, side, side) / channels
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        bias, pads = probe.half(out), (side // 2, side // 2)

        def plain(x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias, pad: int = side // 2) -> Tensor:
            return F.relu(F.conv2d(x, weight, bias, padding=pad))

        line = f"{channels}->{out} {side}x{side} {height}x{width}: {probe.microseconds(plain):.1f} us"
        if probe.cuda:

            def whole(
                x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias, pads: tuple[int, int] = pads
            ) -> Tensor:
                return torch.cudnn_convolution_relu(x, weight, bias, (1, 1), pads, (1, 1), 1)

            # What torch's allocator gives next has held NaN.
            del_me = torch.full_like(plain(), torch.nan)
            del del_me
            error = float((whole() - plain()).float().norm() / plain().float().norm())
            line += f", in one call {probe.microseconds(whole):.1f} us, {error:.1e} off"
        probe.say(line)


def geometry(probe: Probe) -> None:
    """A frame with what lies between the engines compiled, in turn with one without."""
    plan = probe.plan
    network = on_device(build_net("paper" if probe.cuda else "lite", plan), plan, "fp16", channels_last=True)
    network.compiled = True
    begin = time.perf_counter()
    batch = filled(network, plan, 1)
    probe.say(f"compiled and filled in {time.perf_counter() - begin:.0f} s")
    for name, one in (("as it is", probe.batch), ("compiled", batch)) * 2:
        times = frame_times(one, plan)
        probe.say(f"  {name}: {sum(times) / len(times):.3f} ms")


def engines(probe: Probe) -> None:
    """Graphs through Inductor."""
    found = probe.batch.network.engines
    for name in ("decoder", "transformer_query", "backbone", "few_shot_step", "memory_update"):
        engine = found[name]
        assert isinstance(engine, TorchEngine)
        inputs = [_random(probe, engine, port.name) for port in engine.graph.inputs()]
        plain, begin = probe.microseconds(partial(engine.graph, *inputs)), time.perf_counter()
        try:
            fast = compiled(engine.graph)
            quick = probe.microseconds(partial(fast, *inputs))
            probe.say(f"{name}: {plain:.1f} us, compiled {quick:.1f} us ({time.perf_counter() - begin:.0f} s)")
        except Exception:
            probe.say(f"{name}: {plain:.1f} us, compiled:\n{traceback.format_exc()}")


def _random(probe: Probe, engine: TorchEngine, name: str) -> Tensor:
    value = probe.batch.network.tensor(name, 1)
    value.copy_(torch.rand(value.shape, device=value.device) + 0.5)
    channels_last = name.startswith("layer")
    return value.contiguous(memory_format=torch.channels_last) if channels_last else value


SECTIONS = (speed, kernels, attention, convolutions, geometry, engines)


def main(arguments: list[str] | None = None) -> int:
    """Run sections; the exit code is the number of those that failed."""
    parser = argparse.ArgumentParser(description="Where a captured frame's time goes.")
    parser.add_argument("out", type=Path)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(s.__name__ for s in SECTIONS)}; all if left out")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--compiled", action="store_true", help="the batch that is looked at is compiled as a whole")
    parser.add_argument("--tiny", action="store_true", help="small network and frames")
    options = parser.parse_args(arguments)
    names = [section.__name__ for section in SECTIONS]
    if unknown := set(options.sections) - set(names):
        parser.error(f"no section is called {', '.join(sorted(unknown))}: expected of {', '.join(names)}")
    if options.device == "cuda":
        refuse_without_gpu()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with (options.out / "probe.txt").open("a") as log, torch.no_grad():
        plan = TINY if options.tiny else Plan(device=options.device)
        probe = Probe(plan, log, options.compiled)
        probe.say(f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, {options.device}")
        for section in SECTIONS:
            if options.sections and section.__name__ not in options.sections:
                continue
            begin = time.perf_counter()
            try:
                section(probe)
            except Exception:
                failed += 1
                probe.say(f"{section.__name__} FAILED\n{traceback.format_exc()}")
            probe.say(f"-- {section.__name__}: {time.perf_counter() - begin:.1f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
