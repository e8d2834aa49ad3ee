"""Finding a bundle, and refusing one that is not whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ValidationError

from ..errors import BundleError
from .manifest import FORMAT_VERSION, GraphRecord, Manifest

MANIFEST = "manifest.json"
CLICK_FORMAT: Final = "jointrt-clicks"
"""What the manifest of a bundle for clicks says that it is; `manifest.Manifest` is a tracker's."""
ENGINES = Path(__file__).resolve().parent.parent / "engines"
"""Where bundles that are named rather than given by path lie."""
WEIGHTS = "weights.safetensors"
"""The weights that a bundle was made from, where it holds them."""
ONNX_GRAPHS = (
    "backbone",
    "transformer_query",
    "memory_encode",
    "memory_add",
    "memory_replace",
    "memory_read",
    "label_encoder",
    "few_shot_residual",
    "few_shot_step",
    "decoder",
)
"""Graphs that a bundle for ONNX Runtime holds."""
INPUTS = {
    "backbone": {"crop"},
    "transformer_query": {"x_tra"},
    "memory_encode": {"z", "C", "D"},
    "memory_add": {"z", "key", "C", "D", "z_new", "key_new", "C_new", "D_new"},
    "memory_replace": {"z", "key", "C", "D", "z_new", "key_new", "C_new", "D_new", "z_old", "key_old"},
    "memory_swap": {"z", "key", "C", "D", "z_new", "key_new", "C_new", "D_new", "C_old", "D_old"},
    "memory_read": {"query", "key_cross", "E_tra"},
    "memory_read_several": {"query", "key_cross", "E_tra_several"},
    "label_encoder": {"mask"},
    "few_shot_residual": {"z_ind", "E_ind_all", "W_all", "sample_weights", "omega"},
    "few_shot_step": {"z_ind", "weights", "omega", "residual"},
    "decoder": {"E_tra_star", "x_ind", "omega", "layer1", "layer2", "layer3", "layer4"},
}
"""What the graphs of a growing memory take, by which a record under another's name is told."""
CROP_PORTS = ("crop", "mask", "logits")
"""Ports whose last two axes are a crop's height and width."""


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def installed_bundles() -> list[Path]:
    """Folders of the bundles that can be named and that track."""
    return sorted(path.parent for path in ENGINES.glob(f"*/{MANIFEST}") if not is_for_clicks(path.parent))


def is_for_clicks(folder: Path) -> bool:
    """Whether a bundle's folder is one for clicks (see `clicks.bundle`); False where that cannot be told."""
    try:
        values: Any = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("format") == CLICK_FORMAT


def find_bundle(bundle: str | Path) -> Path:
    """The folder of a bundle that is given by name or path.

    Raises:
        BundleError: there is no such bundle.
    """
    folder = Path(bundle)
    if (folder / MANIFEST).is_file():
        return folder
    name = str(bundle)
    if name and Path(name).name == name and (ENGINES / name / MANIFEST).is_file():
        return ENGINES / name
    known = ", ".join(path.name for path in installed_bundles()) or "none"
    if folder.is_dir():
        raise BundleError(
            f"{folder} holds no {MANIFEST}: expected a bundle's folder; make one with "
            "`jointrt export --weights W.safetensors --out DIR`"
        )
    raise BundleError(
        f"no bundle called or at {name!r}: installed bundles are {known}; give one of these, a bundle's folder, or "
        "make one with `jointrt export --weights W.safetensors --out DIR`"
    )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle."""

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, bundle: str | Path) -> Self:
        """Find a bundle by name or path and check it: manifest, version, files and their sha256.

        Raises:
            BundleError: naming the file, what was expected, what was found, and the command that mends it.
        """
        folder = find_bundle(bundle)
        manifest = _read_manifest(folder)
        check_files(folder, manifest.graphs, manifest.files)
        _check_graphs(folder, manifest)
        return cls(folder, manifest)

    def path(self, file: str) -> Path:
        """The path of one of the manifest's files."""
        return self.folder / file

    @property
    def fingerprint(self) -> str:
        """Hex digest over all files' digests: the same for the same contents, whatever the folder."""
        listing = "".join(f"{name} {digest}\n" for name, digest in sorted(self.manifest.files.items()))
        return hashlib.sha256(listing.encode()).hexdigest()


def _mend(folder: Path) -> str:
    return f"export it again with `jointrt export --weights W.safetensors --out {folder} --overwrite`"


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        values: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON ({error}): expected a bundle's manifest; {_mend(folder)}") from None
    if not isinstance(values, dict):
        raise BundleError(f"{path} holds a JSON {type(values).__name__}, expected an object; {_mend(folder)}")
    if values.get("format") == CLICK_FORMAT:
        raise BundleError(
            f"{folder} is a bundle for clicks, which follows nothing: give one that tracks, such as lite, or use it "
            "with `jointrt mask`"
        )
    version = values.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"{path} has format version {version}, this jointrt reads up to {FORMAT_VERSION}: update it with "
            f"`pip install --upgrade jointrt`, or {_mend(folder)}"
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: field {where!r}: {first['msg']}; {_mend(folder)}") from None
    return manifest


def check_files(folder: Path, graphs: Mapping[str, GraphRecord], files: Mapping[str, str]) -> None:
    """See that a bundle's folder holds the files that its manifest lists, unchanged, and no others.

    Args:
        folder: of the bundle.
        graphs: by name.
        files: sha256 by name.

    Raises:
        BundleError: naming the file and the command that mends it.
    """
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    # What Python, version control and readers leave beside the data is not part of it.
    extra = sorted(
        name
        for name in present - set(files)
        if not name.startswith((".", "__")) and not name.endswith((".md", ".png", ".csv"))
    )
    missing = sorted(set(files) - present)
    if missing:
        raise BundleError(f"{folder} lacks {', '.join(missing)}, which its manifest lists; {_mend(folder)}")
    if extra:
        raise BundleError(
            f"{folder} holds {', '.join(extra)}, which its manifest does not list: remove the file, or {_mend(folder)}"
        )
    for graph, record in graphs.items():
        if record.file not in files:
            raise BundleError(
                f"{folder / MANIFEST}: graph {graph!r} names {record.file}, which is not listed; {_mend(folder)}"
            )
    for name, expected in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise BundleError(f"{path} is not a plain file; {_mend(folder)}")
        found = sha256_of(path)
        if found != expected:
            raise BundleError(
                f"{path} has sha256 {found[:12]}..., expected {expected[:12]}...: it was changed; {_mend(folder)}"
            )


def _check_graphs(folder: Path, manifest: Manifest) -> None:
    lacking = [name for name in ONNX_GRAPHS if name not in manifest.graphs]
    if manifest.backend == "onnx" and lacking:
        raise BundleError(f"{folder / MANIFEST} lists no graph {', '.join(lacking)}; {_mend(folder)}")
    for name, record in manifest.graphs.items():
        inputs = {port.name for port in record.inputs}
        if manifest.backend == "onnx" and inputs != INPUTS.get(name, inputs):
            raise BundleError(
                f"{folder / MANIFEST}: graph {name!r} takes {', '.join(sorted(inputs))}, expected "
                f"{', '.join(sorted(INPUTS[name]))}: it is another graph's record; {_mend(folder)}"
            )
    _check_geometry(folder, manifest)


def _check_geometry(folder: Path, manifest: Manifest) -> None:
    """Hold every field of the geometry against the model and the graphs."""
    geometry = manifest.geometry
    for name in ("crop_size", "filter_size", "search_factor"):
        stated, own = manifest.model.get(name), getattr(geometry, name)
        if stated is not None and (tuple(stated) if isinstance(stated, list | tuple) else stated) != own:
            raise BundleError(f"{folder / MANIFEST}: geometry's {name} is {own}, the model's {stated}; {_mend(folder)}")
    height, width = geometry.crop_size
    cells = (height // geometry.stride) * (width // geometry.stride)
    for name, record in manifest.graphs.items():
        for port in (*record.inputs, *record.outputs):
            if port.name in CROP_PORTS and port.shape[-2:] != (height, width):
                raise BundleError(
                    f"{folder / MANIFEST}: {port.name!r} of graph {name!r} has shape {port.shape}, but crops are "
                    f"{height}x{width}; {_mend(folder)}"
                )
            if port.name in ("x_tra", "x_ind") and port.shape[1:2] != (cells,):
                raise BundleError(
                    f"{folder / MANIFEST}: {port.name!r} of graph {name!r} has shape {port.shape}, but crops of "
                    f"{height}x{width} at a stride of {geometry.stride} have {cells}; {_mend(folder)}"
                )
            if port.name == "omega" and manifest.backend == "onnx" and port.shape[1:2] != (_filter_rows(manifest),):
                raise BundleError(
                    f"{folder / MANIFEST}: 'omega' of graph {name!r} has shape {port.shape}, but a filter of "
                    f"{geometry.filter_size}x{geometry.filter_size} has {_filter_rows(manifest)} rows; {_mend(folder)}"
                )


def _filter_rows(manifest: Manifest) -> int | str:
    """Rows of omega: cells of the filter times channels of the mask's encoding."""
    for port in manifest.graphs["label_encoder"].outputs:
        if port.name == "E_ind" and isinstance(channels := port.shape[-1], int):
            return manifest.geometry.filter_size**2 * channels
    return "unknown"
