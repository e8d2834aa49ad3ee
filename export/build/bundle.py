"""`jointrt export`: weights -> a bundle, by way of the parity gate."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from ...errors import BundleError, OutputError, SettingsError
from ...runtime.bundle import MANIFEST, WEIGHTS, Bundle, sha256_of
from ...runtime.manifest import FORMAT_VERSION, Defaults, Manifest, Parity, Record, Windows
from ..checkpoint.network import with_crop
from ..checkpoint.weights import load_network, save_half
from ..graphs.grown_memory import GRAPHS
from ..parity.graphs import failures, measure
from ..parity.reference import geometry_of
from .half_storage import rounded, store_half
from .onnx_graph import OPSET, export_graph


@contextmanager
def replaced_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill beside `out`, which takes its place when the block ends well and vanishes when it does not.

    Raises:
        OutputError: `out` exists and may not be overwritten, or is no bundle, or cannot be written.
    """
    if out.exists():
        if not overwrite:
            raise OutputError(f"{out} exists: choose another folder, or give --overwrite")
        if not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST).is_file()):
            raise OutputError(f"{out} is not a bundle: it is left alone; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out.parent} cannot be written ({error.strerror}): choose another folder") from None
    try:
        yield temporary
        temporary.chmod(0o755)
        if out.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            out.rename(aside / out.name)
            temporary.rename(out)
            shutil.rmtree(aside)
        else:
            temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_crop(crop: tuple[int, int]) -> tuple[int, int]:
    """A crop size (height, width) that the network's strides divide.

    Raises:
        SettingsError: it is not.
    """
    if any(n < 64 or n > 2048 or n % 32 for n in crop):
        raise SettingsError(f"crop is {crop[0]}x{crop[1]}: expected height and width, multiples of 32 from 64 to 2048")
    return crop


def parse_crop(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH: 480x832 -> (480, 832).

    Raises:
        SettingsError: it is no such text.
    """
    height, x, width = text.partition("x")
    if not (x and height.isdecimal() and width.isdecimal()):
        raise SettingsError(f"crop is {text!r}: expected HEIGHTxWIDTH, for example 480x832")
    return int(height), int(width)


def check_defaults(memory: int, interval: int, max_objects: int, windows: str = "released") -> Defaults:
    """Settings that a bundle may have by default.

    Raises:
        SettingsError: one is out of its range.
    """
    if windows not in get_args(Windows):
        raise SettingsError(f"windows is {windows!r}: expected one of {', '.join(get_args(Windows))}")
    try:
        return Defaults(memory=memory, interval=interval, max_objects=max_objects, windows=windows)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        expected = first["msg"].removeprefix("Input should be ")
        raise SettingsError(f"{first['loc'][0]} is {first['input']}: expected a number {expected}") from None


def export_bundle(
    weights: Path,
    out: Path,
    *,
    crop: tuple[int, int] | None = None,
    memory: int = 20,
    interval: int = 5,
    max_objects: int = 8,
    windows: str = "released",
    include_weights: bool = True,
    half_weights: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Bundle:
    """Trace every graph, write the manifest, pass the gate, and put the bundle in its place.

    Args:
        weights: a weights file of `jointrt import-checkpoint` or `jointrt train`.
        out: the bundle's folder.
        crop: (height, width); the model's own if None.
        memory: default N.
        interval: default T.
        max_objects: objects that one engine call may carry.
        windows: default rule of windows shrunk to the frame, "released" or "steady".
        half_weights: round the weights to fp16 and store them so, for files of half the size; computing stays fp32.
        include_weights: keep the weights in the bundle, so that `verify` and `compare` need nothing else.
        overwrite: replace an existing bundle.
        progress: told what is being done.

    Raises:
        SettingsError: crop or a default is out of its range.
        WeightsError: the weights cannot be used.
        BundleError: the gate failed; nothing is left behind.
        OutputError: `out` cannot be written.
    """
    defaults = check_defaults(memory, interval, max_objects, windows)
    net, provenance = load_network(weights)
    if half_weights:
        net = rounded(net)
    if crop is not None:
        net = with_crop(net, check_crop(crop))
    with replaced_folder(out, overwrite) as folder:
        graphs = {}
        for kind in GRAPHS:
            progress(f"tracing {kind.name}")
            graphs[kind.name] = export_graph(kind(net), folder)
        if half_weights:
            for record in graphs.values():
                store_half(folder / record.file)
            provenance = save_half(net, folder / WEIGHTS, provenance)
        elif include_weights:
            shutil.copyfile(weights, folder / WEIGHTS)
        manifest = Manifest(
            format="jointrt-bundle",
            version=FORMAT_VERSION,
            model=net.config.to_dict(),
            weights=provenance,
            geometry=geometry_of(net.config),
            defaults=defaults,
            graphs=graphs,
            files=file_digests(folder),
            backend="onnx",
            precision="fp32",
            opset=OPSET,
            tools=tool_versions(),
            parity=None,
        )
        progress("comparing with the PyTorch network")
        write_judged(folder, manifest, lambda: measure(Bundle.open(folder), net))
    return Bundle.open(out)


def check_source(bundle: Bundle, out: Path) -> None:
    """Refuse what no engines are built from.

    Raises:
        BundleError: it is no bundle of ONNX graphs.
        OutputError: it is the folder to write.
    """
    if bundle.manifest.backend != "onnx":
        raise BundleError(f"{bundle.folder} holds {bundle.manifest.backend} engines: give the bundle of ONNX graphs")
    if out.resolve() == bundle.folder.resolve():
        raise OutputError(f"{out} is the bundle that is built from: choose another folder with --out")


def check_fixed(precision: str, memory: int) -> None:
    """Refuse what graphs of fixed memory are not made with, where nothing is quantised.

    Raises:
        SettingsError: precision or memory is out of range.
    """
    if precision not in ("fp16", "fp32"):
        raise SettingsError(f"precision is {precision!r}: expected fp16 or fp32")
    if not 1 <= memory <= 256:
        raise SettingsError(f"memory is {memory}: expected 1 to 256")


def derived_manifest(source: Manifest, folder: Path, **changes: Any) -> Manifest:
    """That of a bundle made from another one: the same network, other graphs, in the files of `folder`."""
    own = {"files": file_digests(folder), "opset": OPSET, "tools": tool_versions(), "parity": None}
    return Manifest(**{**dict(source), **own, **changes})


def file_digests(folder: Path) -> dict[str, str]:
    """Of all files of a bundle that has no manifest yet."""
    return {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}


def write_manifest(folder: Path, manifest: Record) -> None:
    """`manifest.json`, readable."""
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")


def write_judged(folder: Path, manifest: Record, measure: Callable[[], Parity], precision: str = "") -> None:
    """`manifest.json` with what the parity gate measures of the bundle as it stands.

    Raises:
        BundleError: something is over its tolerance; see `parity.graphs.failures`.
    """
    write_manifest(folder, manifest)
    parity = measure()
    if failed := failures(parity, precision):
        raise BundleError("the parity gate failed, no bundle was written: " + "; ".join(failed))
    write_manifest(folder, manifest.model_copy(update={"parity": parity}))


def tool_versions() -> dict[str, str]:
    """What a bundle was built with."""
    found = {"python": platform.python_version()}
    for package in ("jointrt", "torch", "onnx", "onnxscript", "onnxruntime", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
