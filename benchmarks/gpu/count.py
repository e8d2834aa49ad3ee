"""`python -m jointrt.benchmarks.gpu.count`: kernels, operations and bytes of a frame and of an update; needs no GPU.

Work runs on tensors without values, and each operator that torch would hand to a device is counted as a kernel: a
convolution's bias is another one, and so is each copy and fill. Bytes are those of all inputs and outputs. Some
operators take several kernels on a GPU, which are not told apart here; attention, one there, is several here.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._inductor import metrics
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, register_flop_formula

from ...export.build.aoti import traced
from ...export.parity.torch_network import torch_network
from ...runtime.device.engines.functions import arithmetic
from ...runtime.device.engines.torch import TorchEngine, torch_engines
from ...runtime.device.frame_work import options as compile_options
from ...runtime.device.layout import FEATURES
from ...runtime.settings import Share
from .rows import TINY, Plan, build_net, layout_of, settings_of

_NO_KERNEL = frozenset(
    ("empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh", "_unsafe_view", "set_")
)
_FEW = 2e6
"""Bytes below which a launch takes longer than the memory."""


@register_flop_formula(torch.ops.jointrt.conv_relu)  # Of `engines.torch`.
def _flop_of_conv_relu(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return conv_flop_count(x, weight, out_shape)


@dataclass(slots=True)
class Tally:
    """What some work took.

    Attributes:
        kernels: of a GPU.
        small: those of them that move under 2 MB.
        bytes: read and written.
        gflop: of products and convolutions.
        operators: kernels by operator.
    """

    kernels: int = 0
    small: int = 0
    bytes: float = 0
    gflop: float = 0
    operators: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, moved: float, kernels: int = 1) -> None:
        """An operator's kernels."""
        self.kernels += kernels
        self.small += kernels * (moved < _FEW)
        self.bytes += moved
        self.operators[name] += kernels


class _Counting(TorchDispatchMode):
    def __init__(self, tally: Tally) -> None:
        super().__init__()
        self.tally = tally

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in _NO_KERNEL or func.is_view:
            return result
        tensors = {id(t): t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)}
        moved = float(sum(t.numel() * t.element_size() for t in tensors.values()))
        if name == "index_put_":
            # A slot of a bank; the rest of it is not touched.
            moved = 2.0 * args[2].numel() * args[2].element_size()
        self.tally.add(name, moved)
        if name == "convolution":
            if args[2] is not None:
                self.tally.add("bias", 2.0 * result.numel() * result.element_size())
            if args[1].is_contiguous(memory_format=torch.channels_last):
                # As cuDNN gives it.
                return result.contiguous(memory_format=torch.channels_last)
        return result


@contextmanager
def counted() -> Iterator[Tally]:
    """What the block takes."""
    tally = Tally()
    with FlopCounterMode(display=False) as flops, _Counting(tally):
        yield tally
    tally.gflop = flops.get_total_flops() / 1e9


def tallies(model: str, plan: Plan, objects: int, precision: str, share: Share = "exact") -> dict[str, Tally]:
    """By stage: geometry, every engine of a frame, the whole frame, the update's parts and the whole update."""
    network = torch_network(build_net(model, plan), settings_of(plan, share), precision, "meta")  # type: ignore[arg-type]
    found: dict[str, Tally] = {}

    def stage(name: str, work: Callable[[], object]) -> None:
        with counted() as found[name]:
            work()

    with network.lane.work():
        layout = layout_of(network, plan, objects)
        group = layout.group(0, objects)
        stage("frame", layout.compute)
        stage("update", group.compute)
        for name in network.engines:
            if not name.startswith("few_shot"):
                source = layout.viewed if name in FEATURES else {**layout.tensors, **group.outputs()}
                stage(f"  {name}", network.bind(name, source))
        stage("  3 few-shot steps", group.learn)
    rest = Tally(*(getattr(found["frame"], a) for a in ("kernels", "small", "bytes", "gflop")))
    for name in FRAME_GRAPHS:
        one = found[f"  {name}"]
        rest.kernels, rest.small = rest.kernels - one.kernels, rest.small - one.small
        rest.bytes, rest.gflop = rest.bytes - one.bytes, rest.gflop - one.gflop
    rest.operators = found["frame"].operators - sum((found[f"  {n}"].operators for n in FRAME_GRAPHS), Counter())
    found["  geometry, paste, merge"] = rest
    return found


def compiled_kernels(plan: Plan, objects: int) -> int:
    """What Inductor makes of a frame's work between the engines, for this CPU; small ones share a loop or do not."""
    network = torch_network(build_net("lite", TINY), settings_of(TINY), "fp32", "cpu")
    network.compiled = True
    with network.lane.work():
        layout = layout_of(network, dataclasses.replace(TINY, frame_size=plan.frame_size), objects)
        metrics.reset()
        layout.compute()
    return int(metrics.generated_kernel_count)


FRAME_GRAPHS = ("backbone", "transformer_query", "memory_read", "decoder")


def compiled_graphs(
    model: str, plan: Plan, precision: str, graphs: Sequence[str] = FRAME_GRAPHS
) -> dict[str, tuple[int, int]]:
    """Kernels of compiled graphs for one object: those that Inductor writes, and calls of libraries.

    Inductor lowers for this CPU, as it asks a GPU's driver for its properties; the code is written, not compiled.
    """
    engines = torch_engines(build_net(model, plan), plan.memory, precision, "cpu")  # type: ignore[arg-type]
    only_sources = {"aot_inductor.package": True, "aot_inductor.package_cpp_only": True}
    found = {}
    for name in graphs:
        engine = engines[name]
        assert isinstance(engine, TorchEngine)
        with torch.no_grad(), arithmetic(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program, values = traced(engine, "cpu")
            metrics.reset()
            files = torch._inductor.aot_compile(program.module(), values, options={**compile_options(), **only_sources})
        assert isinstance(files, list)
        (wrapper,) = (f for f in files if isinstance(f, str) and f.endswith(".wrapper.cpp"))
        calls = re.findall(r"aoti_torch_(?:cpu_\w+|proxy_executor_call_function)\(", Path(wrapper).read_text())
        found[name] = int(metrics.generated_kernel_count), len(calls)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Kernels, operations and bytes of a frame, without a GPU.")
    parser.add_argument("--model", default="paper")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--precision", default="fp16", choices=("fp16", "fp32"))
    parser.add_argument("--share", default="exact", choices=("exact", "frame"))
    parser.add_argument("--tiny", action="store_true", help="small network and frames")
    parser.add_argument("--operators", action="store_true", help="kernels by operator too")
    parser.add_argument("--compiled", action="store_true", help="compiled by Inductor, which takes g++")
    options = parser.parse_args(arguments)
    if options.compiled:
        plan = TINY if options.tiny else Plan()
        total = between = compiled_kernels(plan, options.objects)
        print(f"between the engines, compiled: {between}")
        for name, (written, called) in compiled_graphs(options.model, plan, options.precision).items():
            print(f"{name}, compiled: {written} written, {called} of libraries")
            total += written + called
        print(f"a frame of one object: {total}")
        return 0
    found = tallies(options.model, TINY if options.tiny else Plan(), options.objects, options.precision, options.share)
    print(f"{'stage':<28} {'kernels':>8} {'< 2 MB':>8} {'GFLOP':>9} {'MB':>9}")
    for name, tally in found.items():
        print(f"{name:<28} {tally.kernels:>8} {tally.small:>8} {tally.gflop:>9.1f} {tally.bytes / 1e6:>9.0f}")
        if options.operators:
            for operator, count in itertools.islice(tally.operators.most_common(), 14):
                print(f"    {operator:<32} {count:>6}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
