"""`jointrt bench`: where a frame's time goes, over whole update periods at a full memory.

Every case, one bundle under one choice of settings, is loaded and its memory filled; then all of them run one update
period in turn, so that their ratios hold whatever else the machine does.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import DependencyError, SettingsError
from ...runtime.bundle import Bundle
from ...runtime.device.readiness import device_name
from ...runtime.device.speeds import keep_speeds
from ...runtime.segmenter import Segmenter
from ...runtime.settings import Settings
from ...runtime.video.sources import open_source
from .cases import bundle_case, bundle_setup, reference_case, with_other_crop
from .clip import CLIP, BenchClip
from .environment import Environment, peak_mb
from .measure import Case, Measurement, Setup, time_rounds
from .throughput import Throughput, run_clips

if TYPE_CHECKING:
    from ...model.network import JointNet

PERIODS = 6
"""Update periods that are timed."""
PRODUCT_RUNS = 3
"""Runs of the matrix product after each round."""

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many frames of it are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What to time: every bundle with every choice of the settings that have several values.

    Attributes:
        bundles: names or folders.
        device: that they run on.
        backends: what runs them there; see `runtime.backends`.
        crops: (height, width) to trace the bundles' networks for; the bundles as they are if empty.
        memory, threads: of each case; each bundle's default, all cores if empty.
        objects: of each case.
        interval, branches, windows: of all; see `Segmenter.load`.
        share: of each case.
        source: the clip.
        mask: its first mask; the PNG named like it if None.
        periods: update periods to time.
        reference: time the first bundle's PyTorch network with the released algorithm as well.
        weights: those that the bundles were made from; those in the bundles if None.
        clips: run the whole clip so many times through every bundle as well.
    """

    bundles: tuple[str, ...] = ("lite",)
    device: str = "cpu"
    backends: tuple[str, ...] = ("auto",)
    crops: tuple[tuple[int, int], ...] = ()
    memory: tuple[int, ...] = ()
    threads: tuple[int, ...] = ()
    objects: tuple[int, ...] = (1,)
    interval: int | None = None
    branches: str = "both"
    windows: str | None = None
    share: tuple[str, ...] = ("exact",)
    source: Path = CLIP
    mask: Path | None = None
    periods: int = PERIODS
    reference: bool = False
    weights: Path | None = None
    clips: int = 0


def whole_numbers(name: str, text: str | None) -> tuple[int, ...]:
    """Read N,N,...; empty if None.

    Raises:
        SettingsError: it is no such list.
    """
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise SettingsError(f"{name} is {text!r}: expected whole numbers separated by commas, for example 1,5,10")
    return tuple(dict.fromkeys(map(int, parts)))


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured.

    Attributes:
        environment: the machine and the versions.
        clip: what was shown.
        cases: the first one is what the others are compared with.
        products: GFLOP/s of single matrix products, by threads; empty where `onnx` is not installed.
        peak_mb: largest resident set of the process, all cases loaded; None where the system does not say.
        throughput: of whole clips, by bundle case.
    """

    environment: Environment
    clip: BenchClip
    cases: list[Measurement]
    products: dict[int, list[float]]
    peak_mb: float | None
    throughput: list[Throughput]


@dataclass(frozen=True, slots=True)
class Planned:
    """A case that is not loaded yet.

    Attributes:
        against: number of the case that it is compared with.
        net: of a reference.
    """

    bundle: Bundle
    setup: Setup
    against: int = 0
    net: JointNet | None = None


def bench(
    request: BenchRequest,
    progress: Progress = lambda activity, done, total: None,
    check: Callable[[Environment, BenchClip, Sequence[Setup]], None] = lambda environment, clip, setups: None,
) -> BenchReport:
    """Load, fill, time.

    Args:
        progress: see `Progress`.
        check: called before anything is loaded; may refuse.

    Raises:
        JointError: a bundle, the clip or a setting cannot be used.
    """
    for name, value, least in (("periods", request.periods, 1), ("clips", request.clips, 0)):
        if value < least:
            raise SettingsError(f"{name} is {value}: expected {least} or more")
    clip = BenchClip.read(request.source, request.mask)
    for objects in request.objects:
        clip.mask(objects)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jointrt-bench-")))
        plan = list(_plan(request, scratch, progress))
        environment = Environment.current(
            request.device, with_torch=request.reference or any(p.setup.on_device for p in plan)
        )
        check(environment, clip, [planned.setup for planned in plan])
        cases = _load(request, plan, clip, progress)
        products = _time(cases, scratch, progress)
        peak = peak_mb()
        throughput = [
            _run_clips(request, case, clip, scratch, progress)
            for case in cases
            if request.clips and case.measurement.setup.kind == "bundle"
        ]
    return BenchReport(environment, clip, [case.measurement for case in cases], products, peak, throughput)


def keep_measured(cases: Sequence[Measurement]) -> None:
    """What "auto" goes by on a GPU: one object, at the precision that a backend has unless another is asked for.

    Raises:
        OutputError: the user's cache cannot be written.
    """
    for case in cases:
        setup, choice = case.setup, case.setup.choice
        usual = choice.backend.usual_precision(choice.device) in ("", choice.precision)
        if choice.device != "cpu" and setup.kind == "bundle" and setup.objects == 1 and usual:
            keep_speeds(setup.fingerprint, device_name(choice.device), {choice.name: case.amortised_frame_ms})


def _plan(request: BenchRequest, scratch: Path, progress: Progress) -> Iterator[Planned]:
    """Bundles outermost; a reference right behind its bundle."""
    number = 0
    for position, opened in enumerate(map(Bundle.open, request.bundles)):
        for crop in request.crops or (opened.manifest.geometry.crop_size,):
            bundle = _cropped(request, opened, crop, scratch / f"{position}-{crop[0]}x{crop[1]}", progress)
            net = _reference_net(bundle, request.weights) if request.reference and position == 0 else None
            choices = itertools.product(
                request.backends, request.threads or (None,), request.memory or (None,), request.objects, request.share
            )
            for backend, threads, memory, objects, share in choices:
                settings = Settings.resolve(
                    bundle.manifest.defaults,
                    memory=memory,
                    interval=request.interval,
                    branches=request.branches,
                    windows=request.windows,
                    share=share,
                    threads=threads,
                )
                name = opened.folder.absolute().name
                setup = bundle_setup(name, bundle, settings, objects, backend, request.device)
                yield Planned(bundle, setup)
                number += 1
                if net is not None and backend == request.backends[0]:
                    if setup.on_device:
                        raise SettingsError("the reference goes on from a memory on the CPU: give it without --device")
                    reference = dataclasses.replace(setup, kind="reference", precision="fp32")
                    yield Planned(bundle, reference, number - 1, net)
                    number += 1


def _reference_net(bundle: Bundle, weights: Path | None) -> JointNet:
    from ...export.checkpoint.network import bundle_network

    return bundle_network(bundle, weights)


def _cropped(request: BenchRequest, bundle: Bundle, crop: tuple[int, int], folder: Path, progress: Progress) -> Bundle:
    if crop == bundle.manifest.geometry.crop_size:
        return bundle
    return with_other_crop(bundle, crop, request.weights, folder, lambda step: progress(step, 0, 0))


def _load(request: BenchRequest, plan: list[Planned], clip: BenchClip, progress: Progress) -> list[Case]:
    cases: list[Case] = []
    trunks: dict[tuple[str, str, int], Callable[[], object] | None] = {}
    for number, planned in enumerate(plan):
        progress("filling the memory", number, len(plan))
        bundle, setup = planned.bundle, planned.setup
        if planned.net is not None:
            case = reference_case(planned.net, setup, cases[planned.against], clip, request.periods)
        else:
            case = bundle_case(bundle, setup, clip, request.periods)
            key = (setup.fingerprint, setup.backend, setup.settings.threads)
            if key not in trunks:
                trunks[key] = _load_trunk(bundle, setup)
            case.trunk = trunks[key]
            if case.trunk is not None:
                case.trunk()
        case.measurement.against = planned.against
        cases.append(case)
    return cases


def _load_trunk(bundle: Bundle, setup: Setup) -> Callable[[], object] | None:
    """None on a device, and where `onnx`, which takes it out of the backbone, is not installed."""
    if setup.on_device:
        return None
    try:
        from .trunk import load_trunk
    except ModuleNotFoundError:
        return None
    return load_trunk(bundle, setup.settings.threads, setup.choice)


def _time(cases: list[Case], scratch: Path, progress: Progress) -> dict[int, list[float]]:
    """Fill the cases' measurements; returns the rates of matrix products taken in the same run, by threads."""
    rates: dict[int, list[float]] = {}
    on_host = [case.measurement.setup for case in cases if not case.measurement.setup.on_device]
    measures = _products(sorted({setup.settings.threads for setup in on_host}))
    total = sum(case.periods * case.measurement.setup.settings.interval for case in cases)
    done = itertools.count(1)

    def between() -> None:
        for threads, measure in measures.items():
            rates.setdefault(threads, []).extend(measure() for _ in range(PRODUCT_RUNS))

    progress("timing", 0, total)
    time_rounds(cases, scratch, between, lambda: progress("timing", next(done), total))
    for case in cases:
        if case.measurement.setup.on_device:
            case.measurement.queued = _queued_rate(case)
    return rates


def _products(threads: list[int]) -> dict[int, Callable[[], float]]:
    """What measures the rate of a matrix product, by threads; none without `onnx` and ONNX Runtime."""
    try:
        from .roofline import MatrixProduct

        return {n: MatrixProduct(n).rate for n in threads}
    except (ModuleNotFoundError, DependencyError):
        return {}


def _queued_rate(case: Case) -> float:
    """Frames per second of as many frames as were timed, the host working ahead."""
    assert isinstance(case.stepper, Segmenter)
    count = len(case.measurement.frames)
    start = time.perf_counter()
    for _ in case.stepper.stream(itertools.islice(case.frames, count)):
        pass
    return count / (time.perf_counter() - start)


def _run_clips(request: BenchRequest, case: Case, clip: BenchClip, scratch: Path, progress: Progress) -> Throughput:
    source, setup = open_source(request.source), case.measurement.setup
    total, done = request.clips * (source.count or 0), itertools.count(1)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    assert isinstance(case.stepper, Segmenter)
    return run_clips(
        case.stepper,
        setup,
        source,
        clip.mask(setup.objects),
        request.clips,
        folder,
        lambda: progress("running whole clips", next(done), total),
    )
