"""Making what `jointrt bench` times: segmenters with a full memory, at the beginning of an update period."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import BundleError, DependencyError
from ...runtime.bundle import WEIGHTS, Bundle
from ...runtime.cpu.network import OnnxNetwork
from ...runtime.device.readiness import choose_ready
from ...runtime.segmenter import Segmenter, load_tracking
from ...runtime.settings import Settings
from ...runtime.tracking.follower import HostFollower
from .clip import BenchClip
from .engine_calls import Call, counted_calls
from .environment import resident_mb
from .measure import Case, Measurement, Setup

if TYPE_CHECKING:
    from ...model.network import JointNet

REFERENCE_SECONDS = 60.0
"""About as long a reference is timed: its frames are slow, and its number of periods follows from the first."""


def with_other_crop(
    bundle: Bundle, crop: tuple[int, int], weights: Path | None, folder: Path, progress: Callable[[str], None]
) -> Bundle:
    """Export into `folder`, parity gate included.

    Args:
        crop: (height, width).
        weights: those that the bundle was made from; those in the bundle if None.

    Raises:
        BundleError: there are no weights, or the bundle is not of plain fp32 graphs.
    """
    manifest = bundle.manifest
    if manifest.precision != "fp32" or manifest.backend != "onnx":
        raise BundleError(
            f"{bundle.folder} is {manifest.precision} {manifest.backend}: a sweep of --crop traces the network anew, "
            "in fp32; give the bundle that it was made from"
        )
    path = bundle.path(WEIGHTS) if weights is None else weights
    if not path.is_file():
        raise BundleError(
            f"{path} is not there: a sweep of --crop traces the network anew; give the weights that the bundle was "
            "made from with --weights"
        )
    from ...export.build.bundle import export_bundle

    return export_bundle(
        path, folder, crop=crop, memory=manifest.defaults.memory, interval=manifest.defaults.interval, progress=progress
    )


def bundle_setup(
    name: str, bundle: Bundle, settings: Settings, objects: int, backend: str = "auto", device: str = "cpu"
) -> Setup:
    """A bundle on a device, under the name that it is shown by.

    Raises:
        JointError: the backend does not run it there.
    """
    manifest = bundle.manifest
    return Setup(
        kind="bundle",
        bundle=name,
        fingerprint=bundle.fingerprint,
        precision=manifest.precision,
        crop=manifest.geometry.crop_size,
        choice=choose_ready(bundle, backend, None, device),
        settings=settings,
        objects=objects,
    )


def bundle_case(bundle: Bundle, setup: Setup, clip: BenchClip, periods: int) -> Case:
    """Load a bundle, fill its memory and let one period pass."""
    settings, before, began = setup.settings, resident_mb(), time.perf_counter()
    segmenter = Segmenter(*load_tracking(bundle, setup.choice, settings))
    shown = fill_memory(segmenter, clip, setup.objects)
    measurement = Measurement(setup, fill_seconds=time.perf_counter() - began, resident_mb=_growth(before))
    case = Case(measurement, segmenter, clip.frames(shown), shown, periods)
    tracking = segmenter.tracking
    if isinstance(tracking, HostFollower) and isinstance(tracking.network, OnnxNetwork):
        with counted_calls(tracking.network) as calls:
            case.warm_up(settings.interval)
        measurement.gflop = _gflop_per_frame(bundle, calls, settings.interval)
    else:
        # What is captured on a device is captured at its second call.
        case.warm_up(2 * settings.interval)
    return case


def _gflop_per_frame(bundle: Bundle, calls: Counter[Call], frames: int) -> dict[str, float]:
    """By stage; empty where `onnx` or ONNX Runtime is not installed."""
    try:
        from .roofline import stage_gflop

        return {stage: gflop / frames for stage, gflop in stage_gflop(bundle, calls).items()}
    except (ModuleNotFoundError, DependencyError):
        return {}


def fill_memory(segmenter: Segmenter, clip: BenchClip, objects: int) -> int:
    """Start the objects and update at every frame until the memory is full and a slot was replaced.

    Returns:
        The number of frames shown; the next one begins an update period.
    """
    interval = segmenter.settings.interval
    frames = clip.frames()
    segmenter.step(next(frames), clip.mask(objects))
    segmenter.set_interval(1)
    shown = 1
    while shown < segmenter.settings.memory + 2:
        segmenter.step(next(frames))
        shown += 1
    segmenter.set_interval(interval)
    # A frame's number decides: every T-th one begins with an update, the second never does.
    while (shown + 1) % interval or shown < 2:
        segmenter.step(next(frames))
        shown += 1
    return shown


def reference_case(net: JointNet, setup: Setup, filled: Case, clip: BenchClip, periods: int) -> Case:
    """The PyTorch network that a bundle was made from, going on from the memory of the bundle's own case.

    Its memory is encoded anew at every frame, as the released code does.

    Args:
        filled: not timed yet.
        periods: at most; fewer where they would take longer than `REFERENCE_SECONDS`.
    """
    import torch

    from ...export.parity.reference import reference_segmenter

    began, before = time.perf_counter(), resident_mb()
    assert isinstance(filled.stepper, Segmenter)
    settings, state = setup.settings, filled.stepper.state_dict()
    reference = reference_segmenter(net, settings)
    reference.load_state_dict(state)
    case = Case(
        Measurement(setup, fill_seconds=time.perf_counter() - began),
        reference,
        clip.frames(filled.shown),
        filled.shown,
        periods,
        prepare=lambda: torch.set_num_threads(settings.threads),
    )
    case.warm_up(1)
    reference.load_state_dict(state)
    case.frames, case.shown = clip.frames(filled.shown), filled.shown
    case.measurement.resident_mb = _growth(before)
    period = settings.interval * case.measurement.warm_up[0] / 1e3
    case.periods = max(1, min(periods, int(REFERENCE_SECONDS / period)))
    return case


def _growth(before: float | None) -> float | None:
    after = resident_mb()
    return None if before is None or after is None else after - before
