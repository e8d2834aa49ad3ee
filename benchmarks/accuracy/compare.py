"""`jointrt compare`: two bundles, or a bundle and its PyTorch network, on the same clips, and a verdict.

Both run freely: each cuts its crops by its own masks, so that a difference may grow as it would in use.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ...errors import SettingsError
from ...export.checkpoint.network import bundle_network
from ...export.parity.clips import Clip, record_calls
from ...export.parity.graphs import CLIP, MAX_REL_L2, call_errors, graph_failures, graph_parity, worst
from ...export.parity.reference import reference_segmenter
from ...export.parity.table import graph_table
from ...files import check_writable, replace_file
from ...runtime.backends import Choice, Orchestrator, choose
from ...runtime.bundle import Bundle
from ...runtime.cpu.loading import load_engine
from ...runtime.job.run import Display
from ...runtime.manifest import GraphParity
from ...runtime.segmenter import Segmenter
from ...runtime.settings import Settings, available_cores
from ...runtime.video.overlap import mask_iou
from ..interval import CONFIDENCE, bootstrap_interval
from .datasets import Sequence, choose_sequences, open_dataset
from .metrics import boundary_accuracy, region_similarity

FAITHFUL_IOU = 0.995
"""Default floor of a clip's mean IoU where both sides compute in fp32."""
REDUCED_IOU = 0.9
"""The same where one of them does not."""
RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareRequest:
    """What to compare.

    Attributes:
        bundle: name or folder of the bundle under test.
        backend: what runs it on the CPU; see `runtime.backends`. The other side runs with "auto".
        baseline: name or folder of the other; its own PyTorch network if None.
        weights: the weights that `bundle` was made from; those in the bundle if None.
        clips: see `Clip.open`; the shipped clip if there are neither these nor a `root`.
        root: a DAVIS or YouTube-VOS folder.
        sequences: of `root`; the data set's own choice if empty.
        frames: of each clip or sequence at most; all if None.
        memory, interval: of both sides; each bundle's default if None.
        curve: file for the picture of IoU by frame.
        min_iou: floor of every clip's mean IoU; by the bundles' precision if None.
        max_loss: largest loss of mean J&F.
        max_error: largest relative L2 error of a graph; 1e-4 if None and both compute in fp32, else not judged.
    """

    bundle: str
    backend: str = "auto"
    baseline: str | None = None
    weights: Path | None = None
    clips: tuple[Path, ...] = ()
    root: Path | None = None
    sequences: tuple[str, ...] = ()
    frames: int | None = None
    memory: int | None = None
    interval: int | None = None
    curve: Path | None = None
    min_iou: float | None = None
    max_loss: float = 0.01
    max_error: float | None = None


@dataclass(frozen=True, slots=True)
class ClipComparison:
    """One clip or sequence.

    Attributes:
        name: its name.
        iou: IoU of both sides' masks, mean over objects, one per frame after the first.
        tested, baseline: J&F of either, mean over objects; None where there is no truth.
    """

    name: str
    iou: tuple[float, ...]
    tested: float | None
    baseline: float | None


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found.

    Attributes:
        graphs: error of each graph on real crops; empty where the graphs cannot be fed alike.
        clips: the closed loops.
        gain: J&F of the tested side less the baseline's, over sequences; None where there is no truth.
        failures: what is over its threshold, in words.
    """

    graphs: tuple[GraphParity, ...]
    clips: tuple[ClipComparison, ...]
    gain: Interval | None
    failures: tuple[str, ...]


def compare(request: CompareRequest, display: Display) -> Comparison:
    """Run both sides.

    Raises:
        JointError: what the user gave does not fit.
    """
    if request.frames is not None and request.frames < 2:
        raise SettingsError(f"frames is {request.frames}: expected 2 or more, as the first one's mask is given")
    if request.sequences and request.root is None:
        raise SettingsError("--sequences chooses from a data set: give it with --data")
    check_writable(request.curve)
    tested = Bundle.open(request.bundle)
    baseline = None if request.baseline is None else Bundle.open(request.baseline)
    backend = choose(tested, request.backend)
    if backend.orchestrator is Orchestrator.DEVICE:
        raise SettingsError(
            f"{tested.folder} with backend {request.backend} does not run on the CPU: expected ONNX graphs"
        )
    first = Segmenter.load(tested.folder, memory=request.memory, interval=request.interval, backend=request.backend)
    paths = request.clips or (() if request.root is not None else (CLIP,))
    clips = [Clip.open(path) for path in paths]
    sequences = [] if request.root is None else choose_sequences(open_dataset(request.root), request.sequences)
    if baseline is None:
        net = bundle_network(tested, request.weights)
        second = reference_segmenter(
            net, Settings.resolve(tested.manifest.defaults, memory=request.memory, interval=request.interval)
        )
        graphs = tuple(graph_parity(tested, net, backend))
    else:
        second = Segmenter.load(baseline.folder, memory=request.memory, interval=request.interval)
        graphs = tuple(_bundle_parity(tested, baseline, backend))
        if not graphs:
            display.note("graphs not compared one by one: the two bundles' have different inputs")
    lengths = [c.source.count and c.source.count - c.masks.begin for c in clips]
    lengths += [s.images.count and s.images.count - s.first for s in sequences]
    limited = [min(n, request.frames) if n and request.frames else n or request.frames for n in lengths]
    display.begin(None if None in limited else sum(n or 0 for n in limited), 0)
    found = [_compare_clip(clip, first, second, request.frames, display) for clip in clips]
    found += [_compare_sequence(sequence, first, second, request.frames, display) for sequence in sequences]
    gains = [c.tested - c.baseline for c in found if c.tested is not None and c.baseline is not None]
    gain = paired_bootstrap(gains) if gains else None
    if request.curve is not None:
        draw_drift(found, request.curve)
    faithful = {backend.precision, *(b.manifest.precision for b in (tested, baseline) if b is not None)} == {"fp32"}
    return Comparison(graphs, tuple(found), gain, tuple(_failures(request, faithful, graphs, found, gain)))


def _bundle_parity(tested: Bundle, baseline: Bundle, backend: Choice) -> Iterator[GraphParity]:
    """Each graph on what the baseline's is fed in a closed loop over the shipped clip, largest error over calls."""
    ours, theirs = tested.manifest.graphs, baseline.manifest.graphs
    both = [name for name in theirs if name in ours]
    if any((ours[n].inputs, ours[n].outputs) != (theirs[n].inputs, theirs[n].outputs) for n in both):
        return
    for name, calls in record_calls(baseline.folder, [Clip.open(CLIP)], both, frames=4, per_clip=2).items():
        engine = load_engine(tested, backend, name, available_cores())
        if errors := [error for call in calls for error in call_errors(engine, call.inputs, call.outputs)]:
            yield worst(name, errors)


def _agreement(a: NDArray[np.uint8], b: NDArray[np.uint8], ids: tuple[int, ...]) -> float:
    return float(np.mean([mask_iou(a == i, b == i) for i in ids]))


def _compare_clip(
    clip: Clip, first: Segmenter, second: Segmenter, frames: int | None, display: Display
) -> ClipComparison:
    first.reset()
    second.reset()
    begin = clip.masks.begin
    curve = []
    for frame in clip.source.frames(begin, None if frames is None else begin + frames):
        mask = clip.masks.at(frame.index)
        a, b = first.step(frame.image, mask), second.step(frame.image, mask)
        if frame.index > begin:
            curve.append(_agreement(a, b, first.object_ids))
        display.advance()
    return ClipComparison(Path(clip.source.path).stem, tuple(curve), None, None)


def _compare_sequence(
    sequence: Sequence, first: Segmenter, second: Segmenter, frames: int | None, display: Display
) -> ClipComparison:
    first.reset()
    second.reset()
    curve = []
    scores: dict[int, list[tuple[float, float]]] = {i: [] for i in sequence.scored}
    scored = {i: frozenset(names) for i, names in sequence.scored.items()}
    begin = sequence.first
    for frame in sequence.images.frames(begin, None if frames is None else begin + frames):
        mask = sequence.given(frame.name)
        a, b = first.step(frame.image, mask), second.step(frame.image, mask)
        if frame.index > begin:
            curve.append(_agreement(a, b, first.object_ids))
        for i in (i for i, names in scored.items() if frame.name in names):
            truth = sequence.truth(frame.name) == i
            scores[i].append((_region_and_boundary(truth, a == i), _region_and_boundary(truth, b == i)))
        display.advance()
    means = [np.mean(values, axis=0) for values in scores.values() if values]
    if not means:
        return ClipComparison(sequence.name, tuple(curve), None, None)
    tested, baseline = np.mean(means, axis=0).tolist()
    return ClipComparison(sequence.name, tuple(curve), tested, baseline)


def _region_and_boundary(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> float:
    return (region_similarity(truth, found) + boundary_accuracy(truth, found)) / 2


def paired_bootstrap(gains: list[float]) -> Interval:
    """Mean of paired differences and its interval, sequences drawn with replacement; no wider than one of one."""
    values = np.asarray(gains, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, mean, mean)
    return Interval(mean, *bootstrap_interval(lambda drawn: values[drawn].mean(axis=-1), len(values), RESAMPLES))


def _failures(
    request: CompareRequest,
    faithful: bool,
    graphs: tuple[GraphParity, ...],
    clips: list[ClipComparison],
    gain: Interval | None,
) -> Iterator[str]:
    max_error = request.max_error if request.max_error is not None else MAX_REL_L2 if faithful else np.inf
    yield from graph_failures(graphs, max_error)
    default = FAITHFUL_IOU if faithful else REDUCED_IOU
    min_iou = default if request.min_iou is None else request.min_iou
    for clip in clips:
        mean = float(np.mean(clip.iou)) if clip.iou else 1.0
        if not mean >= min_iou:
            yield f"{clip.name}: mean IoU of the masks {mean:.4f}, at least {min_iou} expected"
    if gain is not None and not -gain.mean <= request.max_loss:
        yield f"J&F falls by {-gain.mean:.4f}, at most {request.max_loss} allowed"


def draw_drift(clips: list[ClipComparison], path: Path) -> None:
    """IoU by frame, one line per clip, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    for clip in clips:
        axes.plot(range(1, len(clip.iou) + 1), clip.iou, label=clip.name)
    axes.set_xlabel("frame")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("IoU of both masks")
    axes.set_ylim(top=1.002)
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    replace_file(path, picture.getvalue())


def as_tables(comparison: Comparison) -> list[Table]:
    """Graphs and clips for people."""
    caption = ""
    if comparison.gain is not None:
        gain = comparison.gain
        caption = f"J&F difference {gain.mean:+.4f}, {CONFIDENCE:.0%} interval {gain.low:+.4f} to {gain.high:+.4f}"
    clips = Table(title="closed loop, each side by its own masks", caption=caption)
    clips.add_column("clip")
    for title in ("frames", "mean IoU", "smallest", "last", "J&F", "baseline J&F"):
        clips.add_column(title, justify="right")
    for c in comparison.clips:
        iou = [f"{v:.4f}" for v in (np.mean(c.iou), min(c.iou), c.iou[-1])] if c.iou else ["-"] * 3
        scores = ["-" if v is None else f"{v:.4f}" for v in (c.tested, c.baseline)]
        clips.add_row(c.name, str(len(c.iou) + 1), *iou, *scores)
    return [graph_table(comparison.graphs, "graphs, on real crops"), clips] if comparison.graphs else [clips]
