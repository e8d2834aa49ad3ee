"""The parts of the speed table, each measured for itself, in a process that is replaced where one of them fails.

A failed CUDA call, capture or library may leave its process unusable: whatever goes wrong costs the part in which it
goes wrong, and the others are measured in a new process.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ...errors import BundleError, DeviceError, JointError
from ...model.network import JointNet
from ...runtime.backends import BACKENDS, Orchestrator, choose
from ...runtime.bundle import Bundle
from ...runtime.device.loading import load_network
from ...runtime.device.network import DeviceNetwork
from ...runtime.device.readiness import choose_ready
from ...runtime.device.video_batch import VideoBatch
from ...runtime.settings import INITIAL_STEPS, UPDATE_STEPS, Settings
from .rows import (
    Plan,
    Row,
    build_net,
    filled,
    frame_times,
    gflop_per_frame,
    learner_times,
    on_device,
    product_times,
    queued_times,
    released_times,
    update_times,
    waited_times,
)


def _titles() -> dict[str, str]:
    """Backends of the device's orchestrator, by name."""
    return {backend.name: backend.title for backend in BACKENDS if backend.orchestrator is Orchestrator.DEVICE}


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured at a time.

    Attributes:
        model: a named one, or a bundle's folder; empty where none takes part.
        objects: in every video.
        key: of `TECHNIQUES`.
        backend: of a bundle.
    """

    model: str
    objects: int
    key: str
    backend: str | None = None

    @property
    def technique(self) -> str:
        """As a reader sees it."""
        title = TECHNIQUES[self.key].title
        return title.format(backend="" if self.backend is None else _titles()[self.backend])


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one part: its row, or why there is none, in one line and whole."""

    part: Part
    row: Row | None
    problem: str | None
    trace: str | None = None


class Bench:
    """What neighbouring parts share: the network, and a batch whose memory is full."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._nets: dict[str, JointNet] = {}
        self._batches: dict[Any, VideoBatch] = {}
        self._gflop: dict[tuple[str, int], float] = {}

    def net(self, part: Part) -> JointNet:
        """The model with random weights; the last one is kept."""
        if part.model not in self._nets:
            self._nets = {part.model: build_net(part.model, self.plan)}
        return self._nets[part.model]

    def gflop(self, part: Part) -> float:
        """Of a frame; see `gflop_per_frame`."""
        key = (part.model, part.objects)
        if key not in self._gflop:
            self._gflop[key] = gflop_per_frame(self.net(part), self.plan, part.objects)
        return self._gflop[key]

    def batch(self, part: Part, step: str, videos: int = 1) -> VideoBatch:
        """Videos whose memory is full, with all techniques up to a step of `STEPS`; the last one is kept."""
        key = (part.model, part.objects, part.backend, step, videos)
        if key not in self._batches:
            self.clear()
            self._batches = {key: filled(self._network(part, step), self.plan, part.objects, videos)}
        return self._batches[key]

    def _network(self, part: Part, step: str) -> DeviceNetwork:
        plan = self.plan
        if part.backend is None:
            return on_device(self.net(part), plan, **STEPS[step])
        bundle = Bundle.open(part.model)
        choice = choose_ready(bundle, part.backend, None, plan.device)
        if choice.orchestrator is not Orchestrator.DEVICE:
            raise DeviceError(f"{choice.backend.title} is driven from the host on {plan.device}: not measured here")
        return load_network(bundle, choice, Settings.resolve(bundle.manifest.defaults, interval=plan.interval))

    def clear(self) -> None:
        """Give memory back, so that what is measured next is seen to take its own."""
        self._batches = {}
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def row(self, part: Part) -> Row:
        """Measure a part."""
        technique = TECHNIQUES[part.key]
        times, gflop = technique.measure(self, part), technique.gflop
        counted = None if gflop is None else gflop(self, part)
        return Row.of(part.model, part.objects, part.technique, times, technique.frames(self.plan), counted)


_HALF: dict[str, Any] = {"precision": "fp16", "captured": True, "channels_last": True}
STEPS: dict[str, dict[str, Any]] = {
    "incremental": {"precision": "fp32", "captured": False, "channels_last": False},
    "captured": {"precision": "fp32", "captured": True, "channels_last": False},
    "channels_last": {"precision": "fp32", "captured": True, "channels_last": True},
    "half": {**_HALF, "epilogues": False},
    "fused": _HALF,
    "overlapped": {**_HALF, "overlapped": True},
    "compiled": {**_HALF, "overlapped": True, "compiled": True},
    "engines_compiled": {**_HALF, "overlapped": True, "compiled": True, "engines_compiled": True},
}
"""The torch backend, technique by technique."""


def _one(plan: Plan) -> int:
    return 1


def _none(plan: Plan) -> int:
    return 0


def _all(plan: Plan) -> int:
    return plan.videos


Measure = Callable[[Bench, Part], list[float]]


@dataclass(frozen=True, slots=True)
class Technique:
    """A line of the table.

    Attributes:
        title: as a reader sees it; indented where it is a part of a frame or another view of the line before.
        measure: milliseconds of single calls.
        frames: that one call takes on; none for a part of a frame.
        gflop: of one call; None where the operations are not those of the graphs of fixed memory.
    """

    title: str
    measure: Measure
    frames: Callable[[Plan], int] = _one
    gflop: Callable[[Bench, Part], float] | None = None


def _product(dtype: torch.dtype) -> Measure:
    return lambda bench, part: product_times(bench.plan, dtype)


def _product_gflop(bench: Bench, part: Part) -> float:
    return 2 * bench.plan.product**3 / 1e9


def _released(cached: bool) -> Measure:
    def measure(bench: Bench, part: Part) -> list[float]:
        bench.clear()
        return released_times(bench.net(part), bench.plan, part.objects, cached=cached)

    return measure


def _frames(step: str) -> Measure:
    return lambda bench, part: frame_times(bench.batch(part, step), bench.plan)


def _running(measure: Callable[..., list[float]], *more: Any) -> Measure:
    return lambda bench, part: measure(bench.batch(part, "fused"), bench.plan, *more)


def _videos(step: str) -> Measure:
    return lambda bench, part: frame_times(bench.batch(part, step, bench.plan.videos), bench.plan)


def _videos_gflop(bench: Bench, part: Part) -> float:
    return bench.plan.videos * bench.gflop(part)


TECHNIQUES: dict[str, Technique] = {
    "product_half": Technique("matrix product, fp16", _product(torch.float16), _none, _product_gflop),
    "product_single": Technique("matrix product, fp32", _product(torch.float32), _none, _product_gflop),
    "released": Technique("released algorithm, eager fp32", _released(cached=False)),
    "kept": Technique("+ encoded memory kept between frames", _released(cached=True)),
    "incremental": Technique(
        "+ incremental memory of fixed capacity, all on the device", _frames("incremental"), gflop=Bench.gflop
    ),
    "captured": Technique("+ frame and update captured in CUDA graphs", _frames("captured"), gflop=Bench.gflop),
    "channels_last": Technique("+ channels-last convolutions", _frames("channels_last"), gflop=Bench.gflop),
    "half": Technique("+ fp16", _frames("half"), gflop=Bench.gflop),
    "fused": Technique("+ bias, addition and ReLU in the convolution's call", _frames("fused"), gflop=Bench.gflop),
    "update": Technique("  a memory update, its 3 few-shot steps included", _running(update_times), _none),
    "three": Technique("  3 few-shot steps alone", _running(learner_times, UPDATE_STEPS), _none),
    "twenty": Technique("  20 few-shot steps alone", _running(learner_times, INITIAL_STEPS), _none),
    "waited": Technique("  host to host, each frame waited for", _running(waited_times)),
    "queued": Technique("  host to host, frames queued ahead", _running(queued_times)),
    "overlapped": Technique("+ few-shot steps beside the memory update", _frames("overlapped"), gflop=Bench.gflop),
    "compiled": Technique("+ what lies between the engines compiled", _frames("compiled"), gflop=Bench.gflop),
    "engines_compiled": Technique("+ the engines compiled", _frames("engines_compiled"), gflop=Bench.gflop),
    "videos": Technique("+ several videos in one batch", _videos("fused"), _all, _videos_gflop),
    "videos_compiled": Technique("+ several videos, all compiled", _videos("engines_compiled"), _all, _videos_gflop),
    "engines": Technique("{backend}", _frames("fused")),
    "engines_queued": Technique("  {backend}, host to host, queued ahead", _running(queued_times)),
}
VIDEOS = ("videos", "videos_compiled")
PRODUCTS = ("product_half", "product_single")
OF_BUNDLES = ("engines", "engines_queued")


_FIRST = ("fused", "update", "three", "queued", "videos", "released", "half", "captured")
"""What is measured before the other lines of a model: time may run out."""
_LAST = ("compiled", "engines_compiled", "videos_compiled")
"""What may take as long as a part may, and is measured after the others."""
LIMIT = 75.0
"""Seconds that one part may take, so that one which hangs leaves the others."""


def parts_of_card() -> list[Part]:
    """What the card can do at best."""
    return [Part("", 0, key) for key in PRODUCTS]


def parts_of_model(model: str, objects: int, device: str) -> list[Part]:
    """Every line of a model, the most wanted first.

    Several videos with one object each only, and compiled on a GPU only: elsewhere it would take minutes.
    """
    left_out = (*PRODUCTS, *OF_BUNDLES, *(VIDEOS if objects > 1 else ()), *(_LAST if device == "cpu" else ()))
    keys = [key for key in dict.fromkeys((*_FIRST, *TECHNIQUES)) if key not in _LAST]
    return [Part(model, objects, key) for key in (*keys, *_LAST) if key not in left_out]


def parts_of_bundle(folder: str, objects: int, device: str) -> list[Part]:
    """Every backend with a bundle; those that cannot run it will say why."""
    parts = []
    for name in _titles():
        try:
            choose(Bundle.open(folder), name, device=device)
            suits = True
        except BundleError:
            return [Part(folder, objects, "engines", name)]
        except JointError:
            suits = False
        parts += [Part(folder, objects, key, name) for key in (OF_BUNDLES if suits else OF_BUNDLES[:1])]
    return parts


def measured(
    parts: Sequence[Part], plan: Plan, end: float, *, limit: float = LIMIT, hangs: Path | None = None
) -> Iterator[Outcome]:
    """Outcomes in the parts' order, as they come.

    Args:
        parts: what to measure.
        plan: how.
        end: by `time.monotonic`; what has not been measured then is given up.
        limit: seconds for each part, the start of its process included.
        hangs: a file to which a part that takes nearly as long adds where its threads are.
    """
    context = multiprocessing.get_context("spawn")
    left = deque(parts)
    while left and time.monotonic() < end:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(sender, plan, list(left), 0.9 * limit, hangs), daemon=True)
        process.start()
        sender.close()
        try:
            sound = True
            while left and sound:
                if receiver.poll(max(0.0, min(limit, end - time.monotonic()))):
                    row, problem, trace = receiver.recv()
                    sound = trace is None
                    yield Outcome(left.popleft(), row, problem, trace)
                    continue
                if time.monotonic() < end:
                    yield Outcome(left.popleft(), None, f"took more than {limit:.0f} s")
                break
        except EOFError:
            process.join()
            yield Outcome(left.popleft(), None, f"its process ended with exit code {process.exitcode}")
        finally:
            process.kill()
            # One that hangs in a driver's call may not end at once; what is left is measured without it.
            process.join(5)
    for part in left:
        yield Outcome(part, None, "the time was over")


def _work(sender: Connection, plan: Plan, parts: Sequence[Part], patience: float, hangs: Path | None) -> None:
    """Measure until something goes wrong that is no refusal; the process may be unusable then."""
    if plan.device == "cpu":
        # A rehearsal's tensors are so small that a second thread costs more than it gives.
        torch.set_num_threads(1)
    bench = Bench(plan)
    with Path(os.devnull if hangs is None else hangs).open("a") as file:
        for part in parts:
            if hangs is not None:
                faulthandler.dump_traceback_later(patience, file=file)
            try:
                with torch.no_grad():
                    sender.send((bench.row(part), None, None))
            except JointError as error:
                sender.send((None, str(error), None))
            except Exception as error:
                reason = str(error).strip().splitlines() or [""]
                sender.send((None, f"{type(error).__name__}: {reason[0][:300]}", traceback.format_exc()))
                return
            finally:
                faulthandler.cancel_dump_traceback_later()
