"""Options that several commands have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

Memory = Annotated[int | None, typer.Option(help="Frames kept per object.", show_default="the bundle's")]
Interval = Annotated[int | None, typer.Option(help="Frames between memory updates.", show_default="the bundle's")]
Branches = Annotated[str, typer.Option(metavar="both|transduction|induction", help="Branches to use.")]
ScoreResize = Annotated[
    str, typer.Option(metavar="given|ratio", help="How a crop's scores are resized into the frame.")
]
Windows = Annotated[
    str | None,
    typer.Option(
        metavar="released|steady",
        help="How windows as large as the frame are cut: steady ones are the same on every machine.",
        show_default="the bundle's",
    ),
]
Share = Annotated[
    str,
    typer.Option(
        metavar="exact|frame",
        help="What objects share: exact, what is equal anyway; frame, all but labels, filter and decoder, as all look "
        "at the whole frame: faster, but masks differ and small objects lose.",
    ),
]
Device = Annotated[str, typer.Option(metavar="cpu|cuda", help="Device to run on.")]
Backend = Annotated[
    str,
    typer.Option(
        metavar="NAME[:PRECISION]",
        help="What runs the engines: auto; on the CPU onnxruntime, openvino, or openvino:bf16, which changes masks a "
        "little; on a GPU tensorrt, torch, torch:fp32, torch:compiled, aoti or onnxruntime.",
    ),
]
MinArea = Annotated[
    float | None,
    typer.Option(help="Pixels below which an object's place and size are kept.", show_default="100, as released"),
]
Correct = Annotated[bool, typer.Option("--correct", help="Later masks correct objects that are followed already.")]
Backward = Annotated[
    bool,
    typer.Option("--backward", help="Segment also the frames before the first of a folder's masks, backwards from it."),
]
HardMask = Annotated[
    bool, typer.Option("--hard-mask", help="Grey values are ids, even where they look like smoothed edges.")
]
Keep255 = Annotated[
    bool, typer.Option("--keep-255", help="Follow id 255 too where other ids are beside it; else it is void.")
]
Sequences = Annotated[
    str | None, typer.Option(help="Only these.", metavar="A,B,...", show_default="the data set's validation list")
]
BoxText = Annotated[
    str | None, typer.Option("--box", help="A box about the whole object, in pixels.", metavar="x0,y0,x1,y1")
]
On = Annotated[list[str] | None, typer.Option("--click", help="A place on the object; may be repeated.", metavar="x,y")]
Beside = Annotated[
    list[str] | None, typer.Option("--not", help="A place beside the object; may be repeated.", metavar="x,y")
]
Weights = Annotated[Path | None, typer.Option(help="The weights it was made from.", show_default="those in the bundle")]

Record = TypeVar("Record")


def record_of(kind: type[Record], typed: Mapping[str, Any], **changed: Any) -> Record:
    """A request, from a command's parameters and from what is called otherwise or changed.

    Args:
        kind: a dataclass.
        typed: the command's parameters by name, its `locals()`; those that are no fields are passed over.
        changed: fields that are not taken as they were typed.
    """
    given = {**typed, **changed}
    return kind(**{field.name: given[field.name] for field in dataclasses.fields(kind)})  # type: ignore[arg-type]


def names_in(text: str | None) -> tuple[str, ...]:
    """Those of a list A,B,...; none if it was not given."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
