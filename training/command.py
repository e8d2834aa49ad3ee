"""The body of `jointrt train`."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from ..errors import DependencyError, DeviceError, OutputError, SettingsError
from ..model.backbone import EfficientNetLite0
from ..model.network import JointNet
from .clips.batches import BatchMaker, Prefetcher, validation_batches
from .files import BEST, CHECKPOINT, LAST, init_weights, load_checkpoint, save_checkpoint, save_weights, write_whole
from .frame_store import FrameStore
from .material import find_material
from .pretrained import load_imagenet
from .settings import TrainSettings, preset

SETTINGS = "settings.json"
_REPORT_EVERY = 20
_HOST_ROOM = 4 << 30
_DEVICE_SHARE = 0.5
"""Share of a GPU's free memory that frames may fill."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What `jointrt train` was asked for; None leaves a value as the preset has it.

    Attributes:
        preset: name of the settings.
        data: folders; see `material`.
        out: folder for checkpoint, weights, log.
        init: weights to start from; ImageNet's for the lite trunk if None.
        resume: go on from the checkpoint in `out`.
        minutes: stop after so long, with a checkpoint.
        device: Fabric's accelerator: auto, cpu, cuda.
        devices: how many of them.
        precision: Fabric's: 32-true, bf16-mixed, 16-mixed.
        steps, batch, accumulate, rate, label_heads, cosine: replace the preset's.
        crop: height and width of the crops, instead of the preset's.
        hold_out: names of the films kept for validation, instead of the preset's; empty for none.
    """

    preset: str
    data: tuple[Path, ...]
    out: Path
    init: Path | None = None
    resume: bool = False
    minutes: float | None = None
    device: str = "auto"
    devices: int = 1
    precision: str = "32-true"
    steps: int | None = None
    batch: int | None = None
    accumulate: int | None = None
    rate: float | None = None
    label_heads: int | None = None
    cosine: float | None = None
    crop: tuple[int, int] | None = None
    hold_out: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TrainOutcome:
    """How a run ended: the steps done, of how many, the best validation J (NaN without validation), the weights."""

    step: int
    steps: int
    best_J: float
    weights: Path


def resolve_settings(request: TrainRequest) -> TrainSettings:
    """The preset with the request's changes.

    Raises:
        SettingsError: a value is out of its range, or the batch does not divide.
    """
    try:
        settings = preset(request.preset)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if request.label_heads not in (None, 1, 2):
        raise SettingsError(f"the label encoder has {request.label_heads} heads: expected 1 or 2")
    if request.label_heads is not None:
        settings = dataclasses.replace(
            settings, model=dataclasses.replace(settings.model, label_heads=request.label_heads)
        )
    for name in ("steps", "batch", "accumulate", "rate", "cosine"):
        value = getattr(request, name)
        if value is None:
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name != "cosine"):
            raise SettingsError(f"{name} is {value}: expected more than 0")
        settings = dataclasses.replace(settings, **{name: value})
    if request.crop is not None:
        settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, crop_size=request.crop))
    if request.hold_out is not None:
        settings = dataclasses.replace(settings, hold_out=0, held=request.hold_out)
    parts = settings.accumulate * request.devices
    if request.devices < 1 or settings.batch % parts:
        raise SettingsError(
            f"a batch of {settings.batch} does not divide into {settings.accumulate} parts on {request.devices} devices"
        )
    if request.minutes is not None and request.minutes <= 0:
        raise SettingsError(f"minutes is {request.minutes}: expected more than 0")
    return settings


def train(request: TrainRequest) -> TrainOutcome:
    """Train a network; the folder always holds a whole checkpoint and whole weights.

    Raises:
        DatasetError: the data cannot be used.
        DependencyError: Lightning Fabric, TensorBoard or the ImageNet weights are not installed.
        DeviceError: there is no such device.
        OutputError: the folder holds another run.
        SettingsError: see `resolve_settings`.
        WeightsError: the weights to start from do not fit.
    """
    settings = resolve_settings(request)
    try:
        return _run(request, settings)
    except ImportError as error:
        raise DependencyError(f"{error.name} is not installed: run `pip install jointrt[train]`") from None


def _run(request: TrainRequest, settings: TrainSettings) -> TrainOutcome:
    from lightning_fabric import Fabric

    from .record import Record
    from .trainer import Meter, Progress, Trainer

    try:
        fabric = Fabric(accelerator=request.device, devices=request.devices, precision=request.precision)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise DeviceError(f"device {request.device!r}, precision {request.precision!r}: {error}") from None
    fabric.launch()
    _check_folder(request, settings)
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    torch.manual_seed(settings.seed)
    net = new_network(settings, request.init)
    trainer = Trainer(settings, fabric, net)
    best = math.nan
    if request.resume:
        state = load_checkpoint(request.out / CHECKPOINT)
        trainer.load_state_dict(state["trainer"])
        best = float(state["best_J"])
    store = FrameStore(fabric.device, _room(fabric.device))
    with console.status("reading the data"):
        material, held = find_material(request.data, store).split(settings.hold_out, settings.held)
        validation = validation_batches(held, store, settings)
    console.print(
        f"{len(material.pictures)} objects in pictures, {len(material.films)} films, {len(held)} kept for validation, "
        f"{material.refused} items refused",
        highlight=False,
    )
    per_part = settings.batch // (settings.accumulate * request.devices)
    deadline = math.inf if request.minutes is None else time.monotonic() + 60 * request.minutes
    fabric.barrier()
    if fabric.is_global_zero:
        _begin_folder(request, settings)
    record = Record(request.out, trainer.step) if fabric.is_global_zero else None

    source = f"{request.preset}: {', '.join(folder.resolve().name for folder in request.data)}"

    def save() -> None:
        if fabric.is_global_zero:
            with trainer.final_weights() as final:
                save_weights(request.out / LAST, final, source)
            save_checkpoint(request.out / CHECKPOINT, {"trainer": trainer.state_dict(), "best_J": best})

    with (
        Prefetcher(BatchMaker(material, store, settings, per_part)) as batches,
        _bar(settings, trainer, console) as bar,
    ):
        meter = Meter(settings.batch, batches)

        def report(progress: Progress) -> bool:
            nonlocal best
            bar(progress.step)
            meter.add(progress.values)
            step, done = progress.step, progress.step == settings.steps
            if record is not None and step % settings.picture_every == 0:
                record.add_pictures(step, progress.batch, progress.output.logits)
            if step % _REPORT_EVERY == 0 or done:
                values = meter.read()
                if validation and (step % settings.validate_every == 0 or done):
                    values["validation_J"] = score = trainer.validate(validation)
                    if fabric.is_global_zero and not score <= best:
                        best = score
                        with trainer.final_weights() as final:
                            save_weights(request.out / BEST, final, source)
                if record is not None:
                    record.add(step, values)
                console.print(_line(step, values), highlight=False, soft_wrap=True)
            # All processes must stop at the same step.
            stop = bool(fabric.broadcast(time.monotonic() > deadline))
            if step % settings.save_every == 0 or done or stop:
                save()
                if record is not None:
                    record.draw_curve()
            return not stop

        try:
            trainer.run(batches, report)
        except KeyboardInterrupt:
            console.print("interrupted; --resume goes on from the last checkpoint")
    if record is not None:
        record.close()
    weights = request.out / (BEST if (request.out / BEST).exists() else LAST)
    return TrainOutcome(trainer.step, settings.steps, best, weights)


def new_network(settings: TrainSettings, init: Path | None) -> JointNet:
    """The network to train: from a weights file, or with an ImageNet trunk where there is one.

    Raises:
        SettingsError: this trunk learns from given weights only.
    """
    net = JointNet(settings.model)
    # Importance starts at one everywhere: with it near zero, the few-shot learner has nothing to fit.
    torch.nn.init.ones_(net.label_encoder.head_W.bias)  # type: ignore[arg-type]
    if init is not None:
        init_weights(net, init)
    elif isinstance(net.backbone, EfficientNetLite0):
        load_imagenet(net.backbone)
    else:
        raise SettingsError("this preset needs --init: a weights file of the whole network, or of the trunk's tensors")
    return net


def _check_folder(request: TrainRequest, settings: TrainSettings) -> None:
    file = request.out / SETTINGS
    if request.resume:
        if not file.is_file():
            raise OutputError(f"{request.out} holds no run: nothing to resume; leave --resume out")
        before, given = json.loads(file.read_text(encoding="utf-8")), _as_json(settings)
        changed = sorted(name for name in given if given[name] != before.get(name))
        if changed:
            raise SettingsError(
                f"the run in {request.out} had other settings: {', '.join(changed)}; give the same, or another --out"
            )
    elif file.exists():
        raise OutputError(f"{request.out} holds a run: give --resume to go on, or another --out")


def _begin_folder(request: TrainRequest, settings: TrainSettings) -> None:
    text = json.dumps(_as_json(settings), indent=2) + "\n"
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        write_whole(request.out / SETTINGS, lambda aside: aside.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{request.out} cannot be written: {error}; choose another --out") from None


def _as_json(settings: TrainSettings) -> dict[str, Any]:
    """The settings as they are after being written and read."""
    values: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    return values


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return _HOST_ROOM
    return int(_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0])


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- steps/s" if speed is None else f"{speed:.2f} steps/s")


@contextmanager
def _bar(settings: TrainSettings, trainer: Any, console: Console) -> Iterator[Any]:
    """A progress bar; gives a function of the steps done."""
    with Bar(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("", total=settings.steps, completed=trainer.step)
        yield lambda step: bar.update(task, completed=step)


def _line(step: int, values: dict[str, float]) -> str:
    parts = [f"{name} {values[name]:.4f}" for name in ("loss", "J", "validation_J") if name in values]
    return (
        f"step {step}: {', '.join(parts)}, {values['sequences_per_s']:.2f} sequences/s, "
        f"{100 * values['waiting_share']:.0f} % of the time waiting for data"
    )
