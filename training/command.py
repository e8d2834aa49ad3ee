"""The body of `jointrt train`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from ..errors import DependencyError, SettingsError
from ..model.backbone import EfficientNetLite0
from ..model.network import JointNet
from .clips.batches import Batch, BatchMaker, Prefetcher, validation_batches
from .clips.frame_store import FrameStore
from .files import LAST, RunFolder, init_weights, source_after
from .loop import Meter, Report, launch_fabric, progress_bar
from .material import find_material
from .pretrained import load_imagenet
from .settings import TrainSettings, preset

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
    from .record import Record
    from .trainer import Progress, Trainer

    fabric = launch_fabric(request.device, request.devices, request.precision)
    folder = RunFolder(request.out, settings.to_dict(), request.resume)
    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    torch.manual_seed(settings.seed)
    trainer = Trainer(settings, fabric, new_network(settings, request.init))
    if request.resume:
        trainer.load_state_dict(folder.restore())
    maker, validation = _read_data(request, settings, fabric.device, console)
    fabric.barrier()
    if fabric.is_global_zero:
        folder.begin()
    record = Record(request.out, trainer.step) if fabric.is_global_zero else None
    last = request.out / LAST
    before = last if request.resume and last.exists() else request.init
    source = source_after(f"{request.preset}: {', '.join(f.resolve().name for f in request.data)}", before)
    with Prefetcher(maker) as batches, progress_bar(settings.steps, trainer.step, console) as bar:
        report = Report(
            settings,
            folder,
            fabric,
            trainer,
            validate=(lambda: trainer.validate(validation)) if validation else None,
            record=record,
            meter=Meter(settings.batch, lambda: batches.waited),
            console=console,
            source=source,
            minutes=request.minutes,
            every=_REPORT_EVERY,
        )

        def after_step(progress: Progress) -> bool:
            bar(progress.step)
            if record is not None and progress.step % settings.picture_every == 0:
                record.add_pictures(progress.step, progress.batch, progress.output.logits)
            return report(progress.step, progress.values)

        try:
            trainer.run(batches, after_step)
        except KeyboardInterrupt:
            console.print("interrupted; --resume goes on from the last checkpoint")
    if record is not None:
        record.close()
    return TrainOutcome(trainer.step, settings.steps, folder.best_J, folder.weights)


def _read_data(
    request: TrainRequest, settings: TrainSettings, device: torch.device, console: Console
) -> tuple[BatchMaker, list[Batch]]:
    """What batches are made from, and the validation's."""
    store = FrameStore(device, _room(device))
    with console.status("reading the data"):
        material, held = find_material(request.data, store).split(settings.hold_out, settings.held)
        validation = validation_batches(held, store, settings)
    console.print(
        f"{len(material.pictures)} objects in pictures, {len(material.films)} films, {len(held)} kept for validation, "
        f"{material.refused} items refused",
        highlight=False,
    )
    per_part = settings.batch // (settings.accumulate * request.devices)
    return BatchMaker(material, store, settings, per_part), validation


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


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return _HOST_ROOM
    return int(_DEVICE_SHARE * torch.cuda.mem_get_info(device)[0])
