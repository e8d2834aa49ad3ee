"""What `gpu_proof` measures: a frame's duration as each technique is added, and the parts of a memory update.

Weights are random and frames are noise: on a GPU neither changes how long anything takes. The memory is full.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from ...export.parity.reference import reference_defaults
from ...export.parity.torch_network import torch_network
from ...model.config import ModelConfig
from ...model.network import JointNet
from ...runtime.device.engines.functions import arithmetic
from ...runtime.device.engines.torch import Precision
from ...runtime.device.follower import DeviceFollower
from ...runtime.device.layout import Followed, Layout
from ...runtime.device.network import DeviceNetwork, FewShotLearner
from ...runtime.device.object_group import ObjectGroup
from ...runtime.device.video_batch import VideoBatch
from ...runtime.segmenter import Segmenter
from ...runtime.settings import UPDATE_STEPS, Settings, Share


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        device: "cuda" or "cpu".
        frame_size: (height, width).
        memory, interval: settings.
        filling: frames that fill the memory, and with which whatever is captured is captured.
        measured: frames, a multiple of the interval.
        eager: frames of one object of the released algorithm, which are slow.
        videos: of the batched row.
        product: rows and columns of the matrix product that measures the card.
        crop: of the network's, to make it small; the model's own if None.
    """

    device: str = "cuda"
    frame_size: tuple[int, int] = (480, 854)
    memory: int = 20
    interval: int = 5
    filling: int = 119
    measured: int = 200
    eager: int = 30
    videos: int = 8
    product: int = 8192
    crop: tuple[int, int] | None = None


TINY = Plan(
    *("cpu", (120, 160)), memory=3, interval=2, filling=5, measured=4, eager=2, videos=2, product=128, crop=(64, 96)
)
"""A rehearsal of the whole script where there is no GPU; its durations mean nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        technique: as a reader sees it; indented where it is a part of a frame or another view of the row before.
        mean, p50, p99: milliseconds per call; quantiles None where only the whole was timed.
        frames: frames of all videos in one call; 0 for a part of a frame.
        gflop: floating-point operations of one call on average; None where they were not counted.
        reserved: GPU memory that torch holds, MB; None on the CPU.
    """

    model: str
    objects: int
    technique: str
    mean: float
    p50: float | None
    p99: float | None
    frames: int
    gflop: float | None
    reserved: float | None

    @classmethod
    def of(
        cls, model: str, objects: int, technique: str, times: Sequence[float], frames: int, gflop: float | None = None
    ) -> Self:
        """Of the durations of single calls, or of one that stands for all."""
        several = len(times) > 1
        p50, p99 = (float(np.percentile(times, q)) if several else None for q in (50, 99))
        reserved = torch.cuda.max_memory_reserved() / 1e6 if torch.cuda.is_initialized() else None
        return cls(model, objects, technique, statistics.fmean(times), p50, p99, frames, gflop, reserved)

    @property
    def rate(self) -> float | None:
        """Frames per second, memory updates included."""
        return 1e3 * self.frames / self.mean if self.frames else None


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


def product_times(plan: Plan, dtype: torch.dtype) -> list[float]:
    """A square matrix product."""
    a, b = (torch.randn(plan.product, plan.product, device=plan.device, dtype=dtype) for _ in range(2))
    with arithmetic():
        return durations(lambda: torch.mm(a, b), 3, 10, plan.device)


def build_net(model: str, plan: Plan) -> JointNet:
    """A network with random weights, on the CPU."""
    torch.manual_seed(0)
    config = ModelConfig.named(model)
    if plan.crop is not None:
        config = dataclasses.replace(config, crop_size=plan.crop)
    return JointNet(config).eval().requires_grad_(False)


def released_object(net: JointNet, plan: Plan, *, cached: bool) -> Callable[[], None]:
    """The network's work for one object of a frame as the released code orders it, eager fp32.

    With `cached` the encoded memory is kept between frames and renewed at every update.
    """
    memory, config, device = plan.memory, net.config, plan.device
    C, D, (h, w) = config.feature_channels, config.encoding_channels, config.feature_size
    z, E = torch.randn(1, memory, C, h, w, device=device), torch.rand(1, memory, D, h, w, device=device)
    crop = 255 * torch.rand(1, 3, *config.crop_size, device=device)
    weights = torch.full((1, memory), 1 / memory, device=device)
    omega, encoded = torch.zeros(1, D, C, 3, 3, device=device), net.transformer.encode(z)
    count = 0

    def frame() -> None:
        nonlocal count, omega, encoded
        count += 1
        features = net.extract(crop)
        if count % plan.interval == 0:
            omega = net.target_model.fit(z, E, E, weights, omega, UPDATE_STEPS)
        if not cached or count % plan.interval == 0:
            encoded = net.transformer.encode(z)
        encodings = net.transformer.decode(features.x_tra, encoded, E)
        net.decoder(encodings + net.target_model(features.x_ind, omega), features.layers)

    return frame


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


def settings_of(plan: Plan, share: Share = "exact") -> Settings:
    """The released tracker's, of a plan's size."""
    return Settings.resolve(reference_defaults(memory=plan.memory, interval=plan.interval), share=share)


def filled(network: DeviceNetwork, plan: Plan, objects: int, videos: int = 1) -> VideoBatch:
    """Videos whose objects were followed until their memory is full."""
    batch = VideoBatch(network, videos)
    frame, mask = scene(plan, objects)
    batch.submit([frame] * videos, [mask] * videos).result()
    with network.lane.work():
        for _ in range(plan.filling):
            batch.advance()
    return batch


def group_of(batch: VideoBatch) -> ObjectGroup:
    """All objects, which appeared together."""
    return batch.layout.groups(batch.objects, batch.objects)[0]


def frame_times(batch: VideoBatch, plan: Plan) -> list[float]:
    """The device's time of frames, updates included, without the copies of frames and label maps."""
    with batch.network.lane.work():
        return durations(batch.advance, plan.interval, plan.measured, plan.device)


def update_times(batch: VideoBatch, plan: Plan) -> list[float]:
    """A memory update of all objects."""
    with batch.network.lane.work():
        return durations(group_of(batch).update, 3, plan.measured // 4 or 1, plan.device)


def learner_times(batch: VideoBatch, plan: Plan, steps: int) -> list[float]:
    """The few-shot learner alone, at the memory's capacity."""
    network, group = batch.network, group_of(batch).tensors
    samples = [group[name] for name in ("x_ind", "E_ind", "W")]
    with network.lane.work():
        learner = FewShotLearner(network, len(samples[0]), steps)
        return durations(lambda: learner.learn(*samples), 3, plan.measured // 4 or 1, plan.device)


def waited_times(batch: VideoBatch, plan: Plan) -> list[float]:
    """From a frame in the host's memory to its label map there, one after another, by the host's clock."""
    segmenter = _segmenter(batch)
    frame = scene(plan, 1)[0]
    return durations(lambda: segmenter.step(frame), plan.interval, plan.measured, "cpu")


def queued_times(batch: VideoBatch, plan: Plan) -> list[float]:
    """The same with frames queued ahead: the mean over all of them."""
    segmenter = _segmenter(batch)
    frames = itertools.repeat(scene(plan, 1)[0], plan.measured)
    begin = time.perf_counter()
    for _ in segmenter.stream(frames):
        pass
    return [1e3 * (time.perf_counter() - begin) / plan.measured]


def _segmenter(batch: VideoBatch) -> Segmenter:
    follower = DeviceFollower(batch.network)
    follower.batch = batch
    return Segmenter(follower)


def gflop_per_frame(net: JointNet, plan: Plan, objects: int) -> float:
    """1e9 floating-point operations of products and convolutions, a frame's share of a memory update included.

    Counted in the fp32 graphs of fixed memory, on tensors without values.
    """
    network = torch_network(net, settings_of(plan), "fp32", "meta")
    total = 0.0
    with network.lane.work():
        layout = layout_of(network, plan, objects)
        for part, share in ((layout.compute, 1), (layout.group(0, objects).compute, plan.interval)):
            with FlopCounterMode(display=False) as counter:
                part()
            total += counter.get_total_flops() / share / 1e9
    return total


def layout_of(network: DeviceNetwork, plan: Plan, objects: int) -> Layout:
    """Objects of one video, without a first frame: for counting."""
    frames = torch.zeros(1, *plan.frame_size, 3, dtype=torch.uint8, device=network.lane.device)
    layout = Layout(network, frames, objects, objects)
    layout.tabulate([Followed(0, i + 1, i) for i in range(objects)])
    return layout


def on_device(
    net: JointNet,
    plan: Plan,
    precision: Precision,
    *,
    captured: bool = True,
    channels_last: bool,
    epilogues: bool = True,
    overlapped: bool = False,
    compiled: bool = False,
    engines_compiled: bool = False,
) -> DeviceNetwork:
    """The torch backend with some of its techniques left out; fp16 convolutions are always channels-last."""
    if channels_last:
        net = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options = {"epilogues": epilogues, "compiled": engines_compiled}
    network = torch_network(net, settings_of(plan), precision, plan.device, **options)
    network.capturable = captured
    network.compiled = compiled
    network.overlapped = overlapped
    return network


def released_times(net: JointNet, plan: Plan, objects: int, *, cached: bool) -> list[float]:
    """Frames of the released algorithm, object after object."""
    net = net.to(plan.device)
    work = [released_object(net, plan, cached=cached) for _ in range(objects)]

    def frame() -> None:
        for one in work:
            one()

    periods = max(1, plan.eager // (plan.interval * objects))
    with torch.no_grad(), arithmetic():
        return durations(frame, 2, periods * plan.interval, plan.device)
