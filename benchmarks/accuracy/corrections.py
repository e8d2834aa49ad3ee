"""What corrected frames are worth: J&F against their number.

In the manner of DAVIS's interactive track (Caelles et al., "The 2018 DAVIS Challenge on Video Object Segmentation"):
after every pass over a sequence its worst frame is mended, and the pass is made again. Here a frame is mended by its
true mask, not by scribbles, and frames are counted, not seconds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ...errors import DatasetError, SettingsError
from ...files import check_writable, replace_file
from ...runtime.job.run import Display
from ...runtime.segmenter import Segmenter
from .datasets import DatasetOptions, Sequence, choose_sequences
from .metrics import boundary_accuracy, region_similarity

MOST_CORRECTIONS = 100
MEAN = "mean"
"""Name of the last row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionRequest(DatasetOptions):
    """What to evaluate, `DatasetOptions` included.

    Attributes:
        bundle: name or folder of the bundle to run; `lite` if None.
        corrections: N, frames of each sequence that are corrected, one after the other.
        csv: file for the figures.
    """

    bundle: str | None = None
    corrections: int = 3
    csv: Path | None = None


@dataclass(frozen=True, slots=True)
class Corrected:
    """One sequence.

    Attributes:
        sequence: its name.
        scored: names of the frames that count for at least one object, in order.
        places: which of them were corrected, in the order in which they were.
        passes: J&F after 0, 1, ... corrections, (objects, scored frames); not a number where an object does not count.
    """

    sequence: str
    scored: tuple[str, ...]
    places: tuple[int, ...]
    passes: tuple[NDArray[np.float64], ...]

    def quality(self, corrections: int) -> list[float]:
        """J&F of the objects after so many corrections; frames that are corrected in any pass count in none."""
        return _means(np.delete(self.passes[min(corrections, len(self.places))], self.places, axis=1))

    def behind(self, correction: int) -> tuple[list[float], list[float]]:
        """J&F of the objects in the frames behind that of a correction (from 1 on), without and with it.

        Frames that were corrected before do not count; nothing counts where the sequence has no such correction.
        """
        if correction > len(self.places):
            return [], []
        place, earlier = self.places[correction - 1], self.places[: correction - 1]
        counting = [f for f in range(place + 1, len(self.scored)) if f not in earlier]
        without, with_it = (self.passes[n][:, counting] for n in (correction - 1, correction))
        return _means(without), _means(with_it)


def _means(quality: NDArray[np.float64]) -> list[float]:
    """Mean over the frames of every object that counts in one."""
    return [float(np.nanmean(row)) for row in quality if not np.isnan(row).all()]


def evaluate_corrections(request: CorrectionRequest, display: Display) -> list[Corrected]:
    """Segment every sequence N + 1 times, each time with one more corrected frame.

    Raises:
        JointError: what the user gave does not fit.
    """
    if not 1 <= request.corrections <= MOST_CORRECTIONS:
        raise SettingsError(f"corrections is {request.corrections}: expected 1 to {MOST_CORRECTIONS}")
    check_writable(request.csv)
    dataset = request.open()
    sequences = choose_sequences(dataset, request.sequences)
    without = [sequence.name for sequence in sequences if not sequence.scored]
    if without:
        raise DatasetError(
            f"{request.root} has no truth beyond the given masks for {', '.join(without[:3])}: corrections need it"
        )
    segmenter = Segmenter.load(request.bundle or "lite", **request.options())
    display.begin((request.corrections + 1) * sum(len(s.images.files) - s.first for s in sequences), 0)
    results = [_correct(sequence, segmenter, request.corrections, display) for sequence in sequences]
    if request.csv is not None:
        replace_file(request.csv, as_csv(results, request.corrections).encode(errors="backslashreplace"))
    return results


def _correct(sequence: Sequence, segmenter: Segmenter, corrections: int, display: Display) -> Corrected:
    counting = {name for names in sequence.scored.values() for name in names}
    scored = tuple(name for name in sequence.required if name in counting)
    places: list[int] = []
    passes = [_pass(sequence, scored, frozenset(), segmenter, display)]
    while len(places) < corrections and (place := worst_place(passes[-1], places)) is not None:
        places.append(place)
        passes.append(_pass(sequence, scored, frozenset(scored[p] for p in places), segmenter, display))
    return Corrected(sequence.name, scored, tuple(places), tuple(passes))


def worst_place(quality: NDArray[np.float64], corrected: list[int]) -> int | None:
    """The frame (column) of the lowest J&F, mean over objects; the first of equals.

    Frames that were corrected are passed over, and the last one that was not, behind which nothing can be gained.

    Returns:
        None where no frame is left.
    """
    left = [f for f in range(quality.shape[1]) if f not in corrected][:-1]
    return min(left, key=lambda frame: np.nanmean(quality[:, frame])) if left else None


def _pass(
    sequence: Sequence, scored: tuple[str, ...], corrected: frozenset[str], segmenter: Segmenter, display: Display
) -> NDArray[np.float64]:
    """J&F (objects, scored frames) of one pass with the true masks of some frames."""
    columns = {name: column for column, name in enumerate(scored)}
    rows = {i: frozenset(names) for i, names in sequence.scored.items()}
    quality = np.full((len(rows), len(scored)), np.nan)
    segmenter.reset()
    started: set[int] = set()
    for frame in sequence.images.frames(sequence.first):
        name = frame.name
        started.update(sequence.starts.get(name, ()))
        mask = sequence.given(name)
        if name in corrected:
            truth = sequence.truth(name)
            mask = np.where(np.isin(truth, list(started)), truth, np.uint8(0))
        labels = segmenter.step(frame.image, mask, correct=name in corrected)
        if name in columns:
            truth = sequence.truth(name)
            for row, (object_id, names) in enumerate(rows.items()):
                if name in names:
                    pair = truth == object_id, labels == object_id
                    quality[row, columns[name]] = (region_similarity(*pair) + boundary_accuracy(*pair)) / 2
        display.advance()
    return quality


def _rows(results: list[Corrected], corrections: int) -> Iterator[tuple[str, list[tuple[float, float, float]]]]:
    """Of every sequence, the mean last: J&F by corrections from 0 on, and of the frames behind, without and with."""
    groups = [(result.sequence, [result]) for result in results] + [(MEAN, results)]
    for name, group in groups:
        figures = []
        for n in range(corrections + 1):
            sides = [r.behind(n) for r in group] if n else []
            without, with_it = ([q for side in sides for q in side[k]] for k in (0, 1))
            quality = mean(q for r in group for q in r.quality(n))
            figures.append((quality, mean(without) if without else np.nan, mean(with_it) if with_it else np.nan))
        yield name, figures


def as_csv(results: list[Corrected], corrections: int) -> str:
    """One row a sequence and number of corrections, the mean's rows last."""
    names = {r.sequence: [r.scored[p] for p in r.places] for r in results}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["sequence", "corrections", "corrected", "JF", "behind_without", "behind_with"])
    for sequence, figures in _rows(results, corrections):
        for n, values in enumerate(figures):
            corrected = names.get(sequence, [])
            frame = corrected[n - 1] if 0 < n <= len(corrected) else ""
            writer.writerow([sequence, n, frame, *("" if np.isnan(v) else v for v in values)])
    return text.getvalue()


def as_table(results: list[Corrected], corrections: int, title: str) -> Table:
    """Table for the terminal, three digits."""
    names = {r.sequence: [r.scored[p] for p in r.places] for r in results}
    table = Table(
        title=title,
        caption="J&F by the number of corrected frames, over the frames that are never corrected; behind: the frames "
        "after the first corrected one, without and with it",
    )
    table.add_column("sequence", no_wrap=True)
    table.add_column("corrected")
    for n in range(corrections + 1):
        table.add_column(str(n), justify="right")
    for title in ("behind", "with it"):
        table.add_column(title, justify="right")
    for sequence, figures in _rows(results, corrections):
        if sequence == MEAN:
            table.add_section()
        shown = [quality for quality, _, _ in figures] + list(figures[1][1:])
        table.add_row(sequence, ", ".join(names.get(sequence, ())), *(f"{value:.3f}" for value in shown))
    return table
