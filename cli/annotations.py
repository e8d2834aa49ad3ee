"""Masks in the forms of other tools: `jointrt convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app


@app.command()
def convert(
    masks: Annotated[
        Path,
        typer.Argument(help="PNGs, the OUT of a run, masks.mkv, masks.json, COCO, or a folder of YOLO or labelme."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File or folder to write; it must not be there.")],
    to: Annotated[str, typer.Option(help="What is written: png, ffv1, rle, coco, yolo, labelme or voc.")],
    frames: Annotated[
        Path | None,
        typer.Option(help="Folder of the images, which outlines need to be read.", show_default=False),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(help="Names of the objects: 1=dog,2=woman, or dog,woman.", show_default="those that are read"),
    ] = None,
) -> None:
    """Write masks in the forms of other tools (COCO, YOLO, labelme, Pascal VOC), or read them from there."""
    from ..annotations.convert import ConvertRequest, parse_names
    from ..annotations.convert import convert as convert_masks
    from ..runtime.job.console import RunDisplay

    request = ConvertRequest(masks, out, to, frames, None if names is None else parse_names(names))
    with RunDisplay("converting") as display:
        count = convert_masks(request, display)
    typer.echo(f"{count} frame{'' if count == 1 else 's'}: {out}")
