"""The body of `jointrt train --task clicks`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from ...errors import DependencyError, SettingsError
from ...model.clicks import ClickNet
from ..clips.frame_store import FrameStore
from ..command import TrainOutcome
from ..files import RunFolder
from ..loop import Meter, Report, launch_fabric, progress_bar
from ..material import find_material
from ..pretrained import load_imagenet
from .files import init_click_weights
from .samples import ClickSamples, Sample
from .settings import PRESETS, ClickSettings

_REPORT_EVERY = 50
_ROOM = 6 << 30
"""Bytes of decoded files that are kept."""


@dataclass(frozen=True, slots=True)
class ClickRequest:
    """What `jointrt train --task clicks` was asked for; None leaves a value as the preset has it.

    Attributes:
        preset: name of the settings.
        data: folders; see `material`.
        out: folder for checkpoint, weights, log.
        init: weights to start from: of a click network, or those of a tracker with the same trunk, of which the trunk
            is taken; ImageNet's trunk if None.
        resume: go on from the checkpoint in `out`.
        minutes: stop after so long, with a checkpoint.
        device: Fabric's accelerator: auto, cpu, cuda.
        precision: Fabric's: 32-true, bf16-mixed.
        steps, batch, rate: replace the preset's.
    """

    preset: str
    data: tuple[Path, ...]
    out: Path
    init: Path | None = None
    resume: bool = False
    minutes: float | None = None
    device: str = "auto"
    precision: str = "32-true"
    steps: int | None = None
    batch: int | None = None
    rate: float | None = None


def resolve_settings(request: ClickRequest) -> ClickSettings:
    """The preset with the request's changes.

    Raises:
        SettingsError: a value is out of its range, or there is no such preset.
    """
    if request.preset not in PRESETS:
        raise SettingsError(f"no preset for clicks is called {request.preset!r}: choose one of {', '.join(PRESETS)}")
    settings = PRESETS[request.preset]
    for name in ("steps", "batch", "rate"):
        value = getattr(request, name)
        if value is None:
            continue
        if not math.isfinite(value) or value <= 0:
            raise SettingsError(f"{name} is {value}: expected more than 0")
        settings = dataclasses.replace(settings, **{name: value})
    if settings.pool < 2 * settings.batch:
        raise SettingsError(f"batch is {settings.batch}: expected at most {settings.pool // 2}, half of the pool")
    if request.minutes is not None and not request.minutes > 0:
        raise SettingsError(f"minutes is {request.minutes}: expected more than 0")
    if request.precision not in ("32-true", "bf16-mixed"):
        raise SettingsError(f"precision is {request.precision!r}: expected 32-true or bf16-mixed")
    return settings


def train_clicks(request: ClickRequest) -> TrainOutcome:
    """Train a click network; the folder always holds a whole checkpoint and whole weights.

    Returns:
        With the best mean of the validation crops' J after a box and after three clicks.

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


def _run(request: ClickRequest, settings: ClickSettings) -> TrainOutcome:
    from ..record import Record
    from .trainer import ClickTrainer

    fabric = launch_fabric(request.device, 1, request.precision)
    folder = RunFolder(request.out, settings.to_dict(), request.resume)
    console = Console(stderr=True)
    torch.manual_seed(settings.seed)
    trainer = ClickTrainer(settings, fabric, _new_network(settings, request.init))
    if request.resume:
        trainer.load_state_dict(folder.restore())
    samples, validation = _read_data(request, settings, console)
    folder.begin()
    record = Record(request.out, trainer.step)

    def validate() -> float:
        boxed, clicked = trainer.validate(validation)
        console.print(f"validation: J {boxed:.4f} after a box, {clicked:.4f} after clicks", highlight=False)
        return (boxed + clicked) / 2

    with progress_bar(settings.steps, trainer.step, console) as bar:
        report = Report(
            settings,
            folder,
            fabric,
            trainer,
            validate=validate if validation else None,
            record=record,
            meter=Meter(settings.batch, lambda: 0.0),
            console=console,
            source=request.preset,
            minutes=request.minutes,
            every=_REPORT_EVERY,
        )

        def after_step(values: dict[str, float]) -> bool:
            bar(trainer.step)
            return report(trainer.step, values)

        try:
            trainer.run(samples, after_step)
        except KeyboardInterrupt:
            console.print("interrupted; --resume goes on from the last checkpoint")
    record.close()
    return TrainOutcome(trainer.step, settings.steps, folder.best_J, folder.weights)


def _read_data(request: ClickRequest, settings: ClickSettings, console: Console) -> tuple[ClickSamples, list[Sample]]:
    """What crops are made from, and the validation's."""
    from .trainer import validation_samples

    # Crops are cut and clicked on by the host, whatever the network learns on.
    store = FrameStore(torch.device("cpu"), _ROOM)
    with console.status("reading the data"):
        material, held = find_material(request.data, store).split(settings.hold_out)
        validation = validation_samples(held, store, settings.crop)
    console.print(
        f"{len(material.pictures)} objects in pictures, {len(material.films)} films; {len(validation)} crops of "
        f"{', '.join(film.name for film in held) or 'no films'} kept for validation; {material.refused} items refused",
        highlight=False,
    )
    return ClickSamples(material, store, settings.crop, settings.films, settings.rounds), validation


def _new_network(settings: ClickSettings, init: Path | None) -> ClickNet:
    net = ClickNet(settings.model)
    if init is None:
        load_imagenet(net.backbone)
    else:
        init_click_weights(net, init)
    return net
