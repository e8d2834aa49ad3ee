"""The record of a run: CSV, its curve as PNG, and TensorBoard with pictures."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DependencyError
from ..files import write_whole
from .clips.batches import Batch

LOG = "log.csv"
CURVE = "curve.png"
_FIELDS = ("step", "loss", "segmentation", "cosine", "J", "rate", "sequences_per_s", "waiting_share", "validation_J")


class Record:
    """Values by step. Rows are appended as they come; a resumed run drops those after its checkpoint.

    Attributes:
        folder: where the files lie.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise DependencyError("tensorboard is not installed: run `pip install jointrt[train]`") from None
        self.folder = folder
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self._rows = [row for row in self._read() if int(row["step"]) <= step]
        write_whole(folder / LOG, self._write_all)

    def add(self, step: int, values: dict[str, float]) -> None:
        """One row; its names are columns of the CSV."""
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in values.items()}
        self._rows.append(row)
        with (self.folder / LOG).open("a", newline="") as file:
            csv.DictWriter(file, _FIELDS).writerow(row)
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def add_pictures(self, step: int, batch: Batch, logits: Tensor) -> None:
        """The first mini-sequence's first object: frames with the predicted mask in red and the true one in green."""
        frames = batch.images[0].cpu()
        true = batch.masks[0, 0].cpu()
        predicted = torch.cat((true[:1], (logits[0, 0].detach() > 0).float().cpu()))
        tint = torch.stack((predicted, true, torch.zeros_like(true)), dim=1) * 255
        shown = torch.where(tint.sum(1, keepdim=True) > 0, 0.55 * frames + 0.45 * tint, frames)
        strip = shown.permute(1, 2, 0, 3).flatten(2).byte()
        self._board.add_image("masks", strip, step)

    def draw_curve(self) -> None:
        """Loss and J against steps, as PNG."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        loss_axis, j_axis = figure.subplots(1, 2)
        self._plot(loss_axis, "loss", "training")
        self._plot(j_axis, "J", "training")
        self._plot(j_axis, "validation_J", "validation")
        for axis, title in ((loss_axis, "loss"), (j_axis, "J")):
            axis.set(xlabel="step", ylabel=title)
            axis.grid(alpha=0.3)
        if j_axis.lines:
            j_axis.legend()
        write_whole(self.folder / CURVE, lambda aside: figure.savefig(aside, format="png", dpi=110))

    def close(self) -> None:
        """Draw the curve and write what TensorBoard holds back."""
        if self._rows:
            self.draw_curve()
        self._board.close()

    def _plot(self, axis: object, name: str, label: str) -> None:
        points = [(int(row["step"]), float(row[name])) for row in self._rows if row.get(name)]
        if points:
            axis.plot(*zip(*points, strict=True), label=label)  # type: ignore[attr-defined]

    def _read(self) -> list[dict[str, str]]:
        file = self.folder / LOG
        if not file.is_file():
            return []
        with file.open(newline="") as stream:
            return list(csv.DictReader(stream))

    def _write_all(self, path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _FIELDS)
            writer.writeheader()
            writer.writerows(self._rows)
