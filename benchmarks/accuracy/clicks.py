"""How many clicks a mask takes: NoC, as RITM counts it (Sofiiuk et al., ICIP 2022, section 4).

A simulated person clicks into the middle of the largest error until the IoU is reached; NoC@T is the mean number of
clicks until an IoU of T %, 20 where it is not reached. GrabCut (Rother et al., SIGGRAPH 2004) gets the same box.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ...errors import DatasetError, SettingsError
from ...runtime.clicks import Box, Click, ClickSegmenter
from ...runtime.clicks.prompts import Mask, box_of
from ...runtime.clicks.simulated import next_click
from ...runtime.job.run import Display
from .datasets import Sequence, choose_sequences, open_dataset
from .metrics import region_similarity

MOST_CLICKS = 20
TARGETS = (80, 85, 90)
"""Of the IoU, in percent."""
SHOWN = (1, 2, 3, 5, 10, 20)
"""Clicks after which the IoU is shown."""
_GRABCUT_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickEvaluationRequest:
    """What the user asks for.

    Attributes:
        root, split, single_object: see `datasets.open_dataset`.
        sequences: only these; all if empty.
        every: only every so many-th frame, from the first on.
        bundle, backend, threads: see `ClickSegmenter.load`.
        grabcut: whether GrabCut runs beside.
    """

    root: Path
    split: str | None = None
    single_object: bool = False
    sequences: tuple[str, ...] = ()
    every: int = 10
    bundle: str = "clicks"
    backend: str = "auto"
    threads: int | None = None
    grabcut: bool = True


@dataclass(frozen=True, slots=True)
class Clicked:
    """One object in one frame.

    Attributes:
        sequence, frame: where.
        object_id: which.
        boxed: IoU after a box alone.
        curve: IoU after 1, 2, ... clicks without a box, up to `MOST_CLICKS`.
        seconds: that each of these clicks took.
        kept: seconds that the last of them took once more, with all features of the picture kept.
        features: seconds that a picture's features took for the box.
        grabcut: GrabCut's IoU after the box, and its seconds; None where it did not run.
    """

    sequence: str
    frame: str
    object_id: int
    boxed: float
    curve: tuple[float, ...]
    seconds: tuple[float, ...]
    kept: float
    features: float
    grabcut: tuple[float, float] | None

    def clicks_to(self, target: int) -> int:
        """Clicks until an IoU of `target` %."""
        return next((n for n, iou in enumerate(self.curve, 1) if 100 * iou >= target), MOST_CLICKS)

    def after(self, clicks: int) -> float:
        """IoU after so many clicks."""
        return self.curve[min(clicks, len(self.curve)) - 1]


def evaluate_clicks(request: ClickEvaluationRequest, display: Display) -> list[Clicked]:
    """Click on every object of every frame asked for.

    Args:
        request: what to click on.
        display: told of the progress.

    Raises:
        JointError: the data or the bundle cannot be used.
    """
    if request.every < 1:
        raise SettingsError(f"every is {request.every}: expected 1 or more")
    dataset = open_dataset(request.root, "davis", split=request.split, single_object=request.single_object)
    sequences = choose_sequences(dataset, request.sequences)
    segmenter = ClickSegmenter.load(request.bundle, backend=request.backend, threads=request.threads)
    display.begin(sum(len(sequence.required[:: request.every]) for sequence in sequences), 0)
    results: list[Clicked] = []
    for sequence in sequences:
        for frame in sequence.images.frames(0, None, request.every):
            results += _clicked(sequence, frame.name, frame.image, segmenter, request.grabcut)
            display.advance()
    if not results:
        raise DatasetError(f"{request.root} has no object in the frames chosen: choose others with --every")
    return results


def _clicked(
    sequence: Sequence, name: str, image: NDArray[np.uint8], segmenter: ClickSegmenter, grabcut: bool
) -> Iterator[Clicked]:
    labels = sequence.truth(name)
    for object_id in sequence.scored:
        truth = labels == object_id
        box = box_of(truth)
        if box is None:
            continue
        boxed, features = _from_box(segmenter, image, box)
        curve, seconds, kept = simulate(segmenter, image, truth)
        beside = _grabcut(image, box, truth) if grabcut else None
        quality = region_similarity(truth, boxed > 0.5)
        yield Clicked(sequence.name, name, object_id, quality, tuple(curve), tuple(seconds), kept, features, beside)


def _from_box(segmenter: ClickSegmenter, image: NDArray[np.uint8], box: Box) -> tuple[Mask, float]:
    """The mask after a box alone, and the seconds by which a new picture takes longer than one that is known."""
    began = time.perf_counter()
    segmenter.set_image(image)
    mask = segmenter.predict(box=box)
    known = time.perf_counter()
    segmenter.predict(box=box)
    return mask, (known - began) - (time.perf_counter() - known)


def simulate(
    segmenter: ClickSegmenter, image: NDArray[np.uint8], truth: NDArray[np.bool_], most: int = MOST_CLICKS
) -> tuple[list[float], list[float], float]:
    """Click on an object until nothing is wrong, `most` times at most.

    The picture counts as new: its features are part of the first clicks' seconds.

    Returns:
        The IoU after each click, the seconds of each, and those of the last one when it is made once more, with its
        features kept.
    """
    segmenter.set_image(image)
    clicks: list[Click] = []
    mask = last = None
    curve, seconds = [], []
    for _ in range(most):
        click = next_click(truth, np.zeros_like(truth) if mask is None else mask > 0.5, clicks)
        if click is None:
            break
        clicks.append(click)
        last, began = mask, time.perf_counter()
        mask = segmenter.predict(clicks, mask=last)
        seconds.append(time.perf_counter() - began)
        curve.append(region_similarity(truth, mask > 0.5))
    began = time.perf_counter()
    segmenter.predict(clicks, mask=last)
    return curve, seconds, time.perf_counter() - began


def _grabcut(image: NDArray[np.uint8], box: Box, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """IoU and seconds of OpenCV's GrabCut from a box."""
    began = time.perf_counter()
    region = np.zeros(truth.shape, np.uint8)
    x0, y0, x1, y1 = (int(value) for value in box)
    bgr = np.ascontiguousarray(image[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.grabCut(bgr, region, (x0, y0, x1 - x0, y1 - y0), *models, _GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    except cv2.error:
        # It needs pixels outside of the box; where the box is the whole picture, the box is its mask.
        region[y0:y1, x0:x1] = cv2.GC_PR_FGD
    found = (region == cv2.GC_FGD) | (region == cv2.GC_PR_FGD)
    return region_similarity(truth, found), time.perf_counter() - began


def figures(results: list[Clicked]) -> dict[str, float]:
    """The means over all objects and frames, by name."""
    named = {"box": mean(r.boxed for r in results)}
    named |= {f"{n} clicks": mean(r.after(n) for r in results) for n in SHOWN}
    for target in TARGETS:
        named[f"NoC@{target}"] = mean(r.clicks_to(target) for r in results)
        named[f"failed@{target}"] = mean(float(100 * max(r.curve) < target) for r in results)
    named["ms, first click"] = 1000 * median(r.seconds[0] for r in results)
    named["ms, further clicks"] = 1000 * median(s for r in results for s in r.seconds[1:] or r.seconds)
    named["ms, features kept"] = 1000 * median(r.kept for r in results)
    named["ms, features"] = 1000 * median(r.features for r in results)
    ran = [r.grabcut for r in results if r.grabcut is not None]
    if ran:
        named["GrabCut, box"] = mean(iou for iou, _ in ran)
        named["GrabCut, ms"] = 1000 * median(seconds for _, seconds in ran)
    return named


def as_table(results: list[Clicked], title: str) -> Table:
    """One row a sequence and one for all."""
    table = Table(title=title)
    table.add_column("sequence")
    groups = {name: [r for r in results if r.sequence == name] for name in dict.fromkeys(r.sequence for r in results)}
    for heading in figures(results):
        table.add_column(heading, justify="right")
    for name, group in [*groups.items(), (f"all {len(results)}", results)]:
        table.add_row(name, *(_written(heading, value) for heading, value in figures(group).items()))
    return table


def _written(heading: str, value: float) -> str:
    return f"{value:.0f}" if "ms" in heading else f"{value:.2f}" if "NoC" in heading else f"{value:.3f}"


def as_csv(results: list[Clicked]) -> str:
    """One row an object and frame."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    after = [f"after {n}" for n in range(1, MOST_CLICKS + 1)]
    times = ["ms first", "ms features kept", "ms features"]
    writer.writerow(["sequence", "frame", "object", "box", *after, *times, "grabcut"])
    for r in results:
        curve = [f"{r.after(n):.4f}" for n in range(1, MOST_CLICKS + 1)]
        beside = "" if r.grabcut is None else f"{r.grabcut[0]:.4f}"
        times = [f"{1000 * seconds:.1f}" for seconds in (r.seconds[0], r.kept, r.features)]
        writer.writerow([r.sequence, r.frame, r.object_id, f"{r.boxed:.4f}", *curve, *times, beside])
    return text.getvalue()
