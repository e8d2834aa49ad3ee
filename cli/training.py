"""Making weights: `jointrt train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .options import names_in, record_of


@app.command()
def train(
    data: Annotated[list[Path], typer.Option(help="A folder of films or pictures with masks; may be repeated.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for checkpoint, weights and log.")],
    task: Annotated[str, typer.Option(metavar="video|clicks", help="What the network is for.")] = "video",
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="lite|lite-finetune|paper-stage1|paper-stage2|clicks|clicks-stage2",
            help="Network and schedule.",
            show_default="clicks for that task",
        ),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Weights file to start from.", show_default="lite: ImageNet's trunk")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in OUT.")] = False,
    minutes: Annotated[float | None, typer.Option(help="Stop after so long.", show_default="no limit")] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Device to train on.")] = "auto",
    devices: Annotated[int, typer.Option(help="How many devices.")] = 1,
    precision: Annotated[
        str, typer.Option(metavar="32-true|bf16-mixed|16-mixed", help="Numbers to compute with.")
    ] = "32-true",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps in all.", show_default="the preset's")] = None,
    batch: Annotated[int | None, typer.Option(help="Mini-sequences per step.", show_default="the preset's")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts to divide a batch into.", show_default="the preset's")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Learning rate.", show_default="the preset's")] = None,
    label_heads: Annotated[
        int | None, typer.Option(help="1: both branches share one encoding (Table 2).", show_default="2")
    ] = None,
    cosine: Annotated[
        float | None, typer.Option(help="Weight of the cosine loss; 0 leaves it out (Table 2).", show_default="0.01")
    ] = None,
    crop: Annotated[
        str | None, typer.Option(help="Size of the crops.", metavar="HEIGHTxWIDTH", show_default="the preset's")
    ] = None,
    hold_out: Annotated[
        str | None,
        typer.Option(
            help="Films kept for validation, by name; '' for none.", metavar="A,B,...", show_default="the preset's"
        ),
    ] = None,
) -> None:
    """Train a network; OUT holds a whole checkpoint, weights for `export`, log.csv, curve.png and tensorboard/."""
    from ..errors import SettingsError

    if task == "clicks":
        from ..training.clicks.command import ClickRequest, train_clicks

        unused = {"--accumulate": accumulate, "--label-heads": label_heads, "--cosine": cosine, "--crop": crop}
        unused |= {"--hold-out": hold_out}
        given = [name for name, value in unused.items() if value is not None] + ["--devices"] * (devices != 1)
        if given:
            raise SettingsError(f"{', '.join(given)} says nothing to --task clicks: leave it out")
        request = record_of(ClickRequest, locals(), preset=preset or "clicks", data=tuple(data))
        outcome = train_clicks(request)
        typer.echo(f"{outcome.step} of {outcome.steps} steps: {outcome.weights}")
        return
    if task != "video" or preset is None:
        raise SettingsError(
            f"task is {task!r}: expected video or clicks" if task != "video" else "give --preset for this task"
        )
    from ..export.build.bundle import parse_crop
    from ..training.command import TrainRequest
    from ..training.command import train as run_training

    outcome = run_training(
        record_of(
            TrainRequest,
            locals(),
            data=tuple(data),
            crop=None if crop is None else parse_crop(crop),
            hold_out=None if hold_out is None else names_in(hold_out),
        )
    )
    typer.echo(f"{outcome.step} of {outcome.steps} steps: {outcome.weights}")
