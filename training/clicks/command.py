"""The body of `jointrt train --task clicks`."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ...errors import DependencyError, DeviceError, OutputError, SettingsError
from ...model.clicks import ClickNet
from ..command import SETTINGS, TrainOutcome
from ..files import BEST, CHECKPOINT, LAST, load_checkpoint, save_checkpoint, save_weights, write_whole
from ..frame_store import FrameStore
from ..material import find_material
from ..pretrained import load_imagenet
from .files import init_click_weights
from .samples import ClickSamples
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
    from lightning_fabric import Fabric

    from ..record import Record
    from .trainer import ClickTrainer, validation_samples

    try:
        fabric = Fabric(accelerator=request.device, devices=1, precision=request.precision)  # type: ignore[arg-type]
    except (ValueError, RuntimeError) as error:
        raise DeviceError(f"device {request.device!r}, precision {request.precision!r}: {error}") from None
    console = Console(stderr=True)
    _check_folder(request, settings)
    torch.manual_seed(settings.seed)
    trainer = ClickTrainer(settings, fabric, _new_network(settings, request.init))
    best = math.nan
    if request.resume:
        state = load_checkpoint(request.out / CHECKPOINT)
        trainer.load_state_dict(state["trainer"])
        best = float(state["best_J"])
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
    _begin_folder(request, settings)
    record = Record(request.out, trainer.step)
    samples = ClickSamples(material, store, settings.crop, settings.films, settings.rounds)
    deadline = math.inf if request.minutes is None else time.monotonic() + 60 * request.minutes
    sums: dict[str, float] = {}
    began = time.perf_counter()

    def save() -> None:
        save_weights(request.out / LAST, trainer.averaged, request.preset)
        save_checkpoint(request.out / CHECKPOINT, {"trainer": trainer.state_dict(), "best_J": best})

    with _bar(settings, trainer.step, console) as bar:

        def report(values: dict[str, float]) -> bool:
            nonlocal best, began
            step, done = trainer.step, trainer.step == settings.steps
            bar.update(bar.task_ids[0], completed=step)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
            if step % _REPORT_EVERY == 0 or done:
                count = step % _REPORT_EVERY or _REPORT_EVERY
                means = {name: value / count for name, value in sums.items()}
                means["sequences_per_s"] = count * settings.batch / (time.perf_counter() - began)
                if validation and (step % settings.validate_every == 0 or done):
                    boxed, clicked = trainer.validate(validation)
                    means["validation_J"] = score = (boxed + clicked) / 2
                    console.print(f"validation: J {boxed:.4f} after a box, {clicked:.4f} after clicks", highlight=False)
                    if not score <= best:
                        best = score
                        save_weights(request.out / BEST, trainer.averaged, request.preset)
                record.add(step, means)
                console.print(
                    f"step {step}: loss {means['loss']:.4f}, J {means['J']:.4f}, "
                    f"{means['sequences_per_s']:.1f} crops/s",
                    highlight=False,
                )
                sums.clear()
                began = time.perf_counter()
            stop = time.monotonic() > deadline
            if step % settings.save_every == 0 or done or stop:
                save()
                record.draw_curve()
            return not stop

        try:
            trainer.run(samples, report)
        except KeyboardInterrupt:
            console.print("interrupted; --resume goes on from the last checkpoint")
    record.close()
    weights = request.out / (BEST if (request.out / BEST).exists() else LAST)
    return TrainOutcome(trainer.step, settings.steps, best, weights)


def _new_network(settings: ClickSettings, init: Path | None) -> ClickNet:
    net = ClickNet(settings.model)
    if init is None:
        load_imagenet(net.backbone)
    else:
        init_click_weights(net, init)
    return net


def _check_folder(request: ClickRequest, settings: ClickSettings) -> None:
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


def _begin_folder(request: ClickRequest, settings: ClickSettings) -> None:
    text = json.dumps(_as_json(settings), indent=2) + "\n"
    try:
        request.out.mkdir(parents=True, exist_ok=True)
        write_whole(request.out / SETTINGS, lambda aside: aside.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise OutputError(f"{request.out} cannot be written: {error}; choose another --out") from None


def _as_json(settings: ClickSettings) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(settings.to_dict()))
    return values


def _bar(settings: ClickSettings, done: int, console: Console) -> Progress:
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
    )
    bar.add_task("", total=settings.steps, completed=done)
    return bar
