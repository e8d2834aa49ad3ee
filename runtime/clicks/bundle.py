"""The bundle of a click network: two graphs and a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError

from ...errors import BundleError
from ..bundle import CLICK_FORMAT, MANIFEST, check_files, find_bundle
from ..manifest import FileName, GraphRecord, Parity, Record, Sha256, Weights

CLICK_GRAPHS = ("features", "mask")
"""What is computed once for a crop, and what is computed for every click."""
_VERSION = 1


class ClickManifest(Record):
    """The manifest of a click bundle.

    Attributes:
        format: always "jointrt-clicks", so that it is not taken for a tracker's.
        version: of the format.
        model: the network's configuration.
        crop: side of the square crop in pixels.
        weights: what the graphs were made from.
        half_weights: whether they were rounded to fp16 for that.
        graphs: `CLICK_GRAPHS`.
        files: sha256 of every file besides the manifest.
        opset: of the graphs.
        tools: names and versions of what built the bundle.
        parity: what the gate measured; its loop is over masks of a box and of clicks.
    """

    format: Literal["jointrt-clicks"]
    version: int = Field(ge=1, le=_VERSION)
    model: dict[str, Any]
    crop: int = Field(ge=64, le=2048, multiple_of=32)
    weights: Weights
    half_weights: bool = False
    graphs: dict[str, GraphRecord]
    files: dict[FileName, Sha256]
    opset: int
    tools: dict[str, str]
    parity: Parity | None


@dataclass(frozen=True, slots=True)
class ClickBundle:
    """A checked bundle."""

    folder: Path
    manifest: ClickManifest

    @classmethod
    def open(cls, bundle: str | Path) -> Self:
        """Find a bundle by name or path and check it: manifest, version, files and their sha256.

        Raises:
            BundleError: it is none, is not one for clicks, or is not whole; with the command that mends it.
        """
        folder = find_bundle(bundle)
        path = folder / MANIFEST
        mend = f"export it again with `jointrt export --weights W.safetensors --out {folder} --overwrite`"
        try:
            values: Any = json.loads(path.read_bytes())
            found = values.get("format") if isinstance(values, dict) else None
            if found != CLICK_FORMAT:
                raise BundleError(
                    f"{folder} is no bundle for clicks, its format is {found!r}: give `clicks`, or a folder"
                )
            manifest = ClickManifest.model_validate_json(json.dumps(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(f"{path}: field {where!r}: {first['msg']}; {mend}") from None
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{path} is not JSON ({error}): expected a bundle's manifest; {mend}") from None
        lacking = [name for name in CLICK_GRAPHS if name not in manifest.graphs]
        if lacking:
            raise BundleError(f"{path} lists no graph {', '.join(lacking)}; {mend}")
        check_files(folder, manifest.graphs, manifest.files)
        return cls(folder, manifest)
