"""What the runs of every task share: the device, and what follows each step (bar, means, validation, saving)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import DeviceError
from ..model.clicks import ClickNet
from ..model.network import JointNet
from .files import BEST, LAST, RunFolder, save_weights

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from .record import Record


def launch_fabric(device: str, devices: int, precision: str) -> Fabric:
    """Fabric with its processes started.

    Raises:
        DeviceError: there is no such device, or it has no such precision.
    """
    from lightning_fabric import Fabric

    try:
        fabric = Fabric(accelerator=device, devices=devices, precision=precision)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise DeviceError(f"device {device!r}, precision {precision!r}: {error}") from None
    fabric.launch()
    return fabric


class Meter:
    """Means since the last reading, with the speed.

    Attributes:
        per_step: mini-sequences or crops per step.
        waited: seconds spent waiting for data so far.
    """

    def __init__(self, per_step: int, waited: Callable[[], float]) -> None:
        self.per_step = per_step
        self.waited = waited
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps = 0
        self._began = time.perf_counter()
        self._waited = self.waited()

    def add(self, values: dict[str, float]) -> None:
        """The values of one step."""
        self._steps += 1
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def read(self) -> dict[str, float]:
        """The means, mini-sequences per second, and the share of the time spent waiting for data; starts anew."""
        seconds = max(time.perf_counter() - self._began, 1e-9)
        values = {name: total / self._steps for name, total in self._sums.items()}
        values["sequences_per_s"] = self._steps * self.per_step / seconds
        values["waiting_share"] = (self.waited() - self._waited) / seconds
        self._reset()
        return values


class Rhythm(Protocol):
    """How many steps a run has, and every how many something is done."""

    @property
    def steps(self) -> int: ...
    @property
    def validate_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...


class Learner(Protocol):
    """A trainer, as far as it is saved."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def final_weights(self) -> AbstractContextManager[JointNet | ClickNet]:
        """The network with the weights that a user would get."""


class Report:
    """What follows each step: values are recorded, the network validated and saved when it is time.

    Attributes:
        source: what the weights say that they come from.
        every: steps between two lines.
    """

    def __init__(
        self,
        rhythm: Rhythm,
        folder: RunFolder,
        fabric: Fabric,
        trainer: Learner,
        *,
        validate: Callable[[], float] | None,
        record: Record | None,
        meter: Meter,
        console: Console,
        source: str,
        minutes: float | None,
        every: int,
    ) -> None:
        """Args: `validate` gives the score that the best weights are chosen by; the others as in `Attributes`."""
        self.source = source
        self.every = every
        self._rhythm, self._folder, self._fabric, self._trainer = rhythm, folder, fabric, trainer
        self._validate, self._record, self._meter, self._console = validate, record, meter, console
        self._deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def __call__(self, step: int, values: dict[str, float]) -> bool:
        """Whether the run goes on after `step` steps, of which the last had these values."""
        self._meter.add(values)
        done = step == self._rhythm.steps
        if step % self.every == 0 or done:
            means = self._meter.read()
            if self._validate is not None and (step % self._rhythm.validate_every == 0 or done):
                means["validation_J"] = self._score(self._validate)
            if self._record is not None:
                self._record.add(step, means)
            self._console.print(_line(step, means), highlight=False, soft_wrap=True)
        # All processes must stop at the same step.
        stop = bool(self._fabric.broadcast(time.monotonic() > self._deadline))
        if step % self._rhythm.save_every == 0 or done or stop:
            self._save()
        return not stop

    def _score(self, validate: Callable[[], float]) -> float:
        score = validate()
        if self._fabric.is_global_zero and self._folder.is_best(score):
            with self._trainer.final_weights() as net:
                save_weights(self._folder.path / BEST, net, self.source)
        return score

    def _save(self) -> None:
        if self._fabric.is_global_zero:
            with self._trainer.final_weights() as net:
                save_weights(self._folder.path / LAST, net, self.source)
            self._folder.save(self._trainer.state_dict())
        if self._record is not None:
            self._record.draw_curve()


def _line(step: int, values: dict[str, float]) -> str:
    parts = [f"{name} {values[name]:.4f}" for name in ("loss", "J", "validation_J") if name in values]
    return (
        f"step {step}: {', '.join(parts)}, {values['sequences_per_s']:.2f} sequences/s, "
        f"{100 * values['waiting_share']:.0f} % of the time waiting for data"
    )


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- steps/s" if speed is None else f"{speed:.2f} steps/s")


@contextmanager
def progress_bar(steps: int, done: int, console: Console) -> Iterator[Callable[[int], None]]:
    """A progress bar; gives a function of the steps done."""
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=steps, completed=done)
        yield lambda step: bar.update(task, completed=step)
