"""What `gpu_proof` measures: a frame's duration as each technique is added, and the parts of a memory update.

Weights are random and frames are noise: on a GPU neither changes how long anything takes. The memory is full.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ..export.reference import geometry_of, reference_defaults
from ..export.torch_engines import arithmetic, torch_engines
from ..model.config import ModelConfig
from ..model.network import JointNet
from ..runtime.device_network import DeviceNetwork, FewShotLearner
from ..runtime.device_segmenter import DeviceSegmenter
from ..runtime.replay import Lane
from ..runtime.settings import INITIAL_STEPS, UPDATE_STEPS, Settings
from ..runtime.video_batch import VideoBatch

Precision = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        device: "cuda" or "cpu".
        frame_size: (height, width).
        memory, interval: settings.
        warm_up, measured: frames; the first fill the memory.
        eager: frames of the released algorithm, which are slow.
        videos: of the batched row.
        crop: of the network's, to make it small; the model's own if None.
    """

    device: str = "cuda"
    frame_size: tuple[int, int] = (480, 854)
    memory: int = 20
    interval: int = 5
    warm_up: int = 120
    measured: int = 200
    eager: int = 30
    videos: int = 8
    crop: tuple[int, int] | None = None


TINY = Plan("cpu", (120, 160), memory=3, interval=2, warm_up=6, measured=4, eager=2, videos=2, crop=(64, 96))
"""A rehearsal of the whole script where there is no GPU; its durations mean nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        p50, p99: milliseconds per call.
        frames: frames of all videos in one call; 0 for a part of a frame.
        gflop: floating-point operations of one call, counted in the graphs; None where they were not.
    """

    model: str
    objects: int
    technique: str
    p50: float
    p99: float
    frames: int = 1
    gflop: float | None = None

    @property
    def rate(self) -> float | None:
        """Frames per second."""
        return 1e3 * self.frames / self.p50 if self.frames else None


def durations(call: Callable[[], object], warm_up: int, measured: int, device: str) -> list[float]:
    """Milliseconds of each of `measured` calls: between events of a GPU's stream, or by the host's clock."""
    for _ in range(warm_up):
        call()
    if device == "cpu":
        times = []
        for _ in range(measured):
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
        return times
    events = [torch.cuda.Event(enable_timing=True) for _ in range(measured + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]


def matrix_peak(dtype: torch.dtype, device: str, size: int = 8192) -> float:
    """Measured TFLOP/s of a square matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    with arithmetic():
        return 2 * size**3 / (statistics.median(durations(lambda: torch.mm(a, b), 3, 10, device)) * 1e9)


def _row(model: str, objects: int, technique: str, times: list[float], frames: int = 1) -> Row:
    return Row(model, objects, technique, statistics.median(times), float(np.percentile(times, 99)), frames)


def build_net(model: str, plan: Plan) -> JointNet:
    """A network with random weights, on the CPU."""
    torch.manual_seed(0)
    config = ModelConfig.named(model)
    if plan.crop is not None:
        config = dataclasses.replace(config, crop_size=plan.crop)
    return JointNet(config).eval().requires_grad_(False)


def released_frame(net: JointNet, plan: Plan, *, cached: bool) -> Callable[[], None]:
    """The network's work at one frame as the released code orders it, eager fp32; one object.

    With `cached` the encoded memory is kept between frames and renewed, with three descent steps, at every update.
    """
    memory, config, device = plan.memory, net.config, plan.device
    C, D, (h, w) = config.feature_channels, config.encoding_channels, config.feature_size
    z, E = torch.randn(1, memory, C, h, w, device=device), torch.rand(1, memory, D, h, w, device=device)
    crop = 255 * torch.rand(1, 3, *config.crop_size, device=device)
    weights = torch.full((1, memory), 1 / memory, device=device)
    state = {"omega": torch.zeros(1, D, C, 3, 3, device=device), "encoded": net.transformer.encode(z)}
    count = 0

    def frame() -> None:
        nonlocal count
        count += 1
        features = net.extract(crop)
        if count % plan.interval == 0:
            state["omega"] = net.target_model.fit(z, E, E, weights, state["omega"], UPDATE_STEPS)
        if not cached or count % plan.interval == 0:
            state["encoded"] = net.transformer.encode(z)
        encodings = net.transformer.decode(features.x_tra, state["encoded"], E)
        net.decoder(encodings + net.target_model(features.x_ind, state["omega"]), features.layers)

    return frame


def new_network(net: JointNet, plan: Plan, precision: Precision) -> DeviceNetwork:
    """The torch backend's engines, on a lane of their own."""
    settings = Settings.resolve(reference_defaults(memory=plan.memory, interval=plan.interval))
    engines = torch_engines(net, plan.memory, precision, plan.device)
    return DeviceNetwork(engines, geometry_of(net.config), settings, Lane(torch.device(plan.device)))


def scene(plan: Plan, objects: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A frame of noise, and squares in it."""
    height, width = plan.frame_size
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = np.zeros(plan.frame_size, np.uint8)
    side = height // 3
    for i in range(objects):
        top, left = height // 12 + height * (i % 2) * 11 // 24, width // 28 + width * (i // 2) * 6 // 25
        mask[top : top + side, left : left + side * 4 // 5] = i + 1
    return frame, mask


def started(network: DeviceNetwork, plan: Plan, objects: int, videos: int = 1) -> VideoBatch:
    """Videos whose objects were given."""
    batch = VideoBatch(network, videos)
    frame, mask = scene(plan, objects)
    batch.submit([frame] * videos, [mask] * videos).result()
    return batch


def frame_row(
    network: DeviceNetwork, plan: Plan, model: str, objects: int, technique: str, videos: int = 1
) -> tuple[Row, VideoBatch]:
    """The device's time of a frame, updates included, without the copies of frames and label maps."""
    batch = started(network, plan, objects, videos)
    with network.lane.work():
        times = durations(batch.advance, plan.warm_up, plan.measured, plan.device)
    return _row(model, objects, technique, times, videos), batch


def part_rows(batch: VideoBatch, plan: Plan, model: str, objects: int) -> Iterator[Row]:
    """A memory update, and the few-shot learner alone."""
    network = batch.network
    with network.lane.work():
        times = durations(batch.groups[0].update, 3, plan.measured // 4 or 1, plan.device)
        yield _row(model, objects, "  one memory update, its 3 few-shot steps included", times, 0)
        group = batch.groups[0].tensors
        for steps in (UPDATE_STEPS, INITIAL_STEPS):
            learner = FewShotLearner(network, objects, steps)
            samples = (group["x_ind"], group["E_ind"], group["W"])

            def learn(learner: FewShotLearner = learner, samples: tuple[torch.Tensor, ...] = samples) -> None:
                learner.learn(*samples)

            times = durations(learn, 3, plan.measured // 4 or 1, plan.device)
            yield _row(model, objects, f"  {steps} few-shot steps alone", times, 0)


def end_to_end_row(network: DeviceNetwork, plan: Plan, model: str, objects: int, technique: str) -> Row:
    """Frames from the host's memory to label maps in it, queued ahead; the host's clock over all of them."""
    segmenter = DeviceSegmenter(network)
    frame, mask = scene(plan, objects)
    segmenter.step(frame, mask)
    for _ in range(plan.warm_up):
        segmenter.step(frame)
    begin = time.perf_counter()
    for _ in segmenter.stream(itertools.repeat(frame, plan.measured)):
        pass
    mean = 1e3 * (time.perf_counter() - begin) / plan.measured
    return Row(model, objects, technique, mean, mean)


def frame_gflop(batch: VideoBatch) -> float:
    """Floating-point operations of a frame without an update, in 1e9: those of products and convolutions."""
    with batch.network.lane.work(), FlopCounterMode(display=False) as counter:
        batch._follow()
    return counter.get_total_flops() / 1e9


@torch.no_grad()
def measure(model: str, objects: int, plan: Plan) -> Iterator[Row]:
    """The waterfall of one model: each row adds one technique to those before."""
    net = build_net(model, plan)
    if objects == 1:
        net = net.to(plan.device)
        with arithmetic():
            times = durations(released_frame(net, plan, cached=False), 2, plan.eager, plan.device)
            yield _row(model, 1, "released algorithm, eager fp32", times)
            times = durations(released_frame(net, plan, cached=True), 5, 2 * plan.eager, plan.device)
            yield _row(model, 1, "+ encoded memory kept", times)
        net = net.cpu()
    network = new_network(net, plan, "fp32")
    network.capturable = False
    row, batch = frame_row(network, plan, model, objects, "+ incremental memory of fixed capacity, all on the device")
    gflop = frame_gflop(batch)
    yield row
    network = new_network(net, plan, "fp32")
    row, batch = frame_row(network, plan, model, objects, "+ whole frame and update captured, fp32")
    yield dataclasses.replace(row, gflop=gflop)
    yield from part_rows(batch, plan, model, objects)
    del batch, network
    network = new_network(net, plan, "fp16")
    row, batch = frame_row(network, plan, model, objects, "+ fp16 on channels-last memory")
    yield dataclasses.replace(row, gflop=gflop)
    yield from part_rows(batch, plan, model, objects)
    del batch
    yield end_to_end_row(network, plan, model, objects, "  host to host, frames queued ahead")
    if objects == 1:
        technique = f"+ {plan.videos} videos in one batch"
        row, _ = frame_row(network, plan, model, 1, technique, plan.videos)
        yield dataclasses.replace(row, gflop=gflop * plan.videos)


def bundle_rows(folder: str, plan: Plan, objects: int) -> Iterator[Row]:
    """Every backend that a bundle has engines for, as `Segmenter.load` loads it.

    Raises:
        JointError: a backend cannot be used; says why.
    """
    from ..runtime.device_backends import load_device_network

    network, runs_on = load_device_network(folder, device=plan.device)
    row, _ = frame_row(network, plan, folder, objects, runs_on.partition(":")[0])
    yield row
    yield end_to_end_row(network, plan, folder, objects, "  host to host, frames queued ahead")
