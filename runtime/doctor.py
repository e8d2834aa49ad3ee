"""What of jointrt works on this machine; what `jointrt doctor` shows."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import DependencyError, JointError
from .backends import BACKENDS
from .bundle import ENGINES, MANIFEST, Bundle, installed_bundles, is_for_clicks
from .clicks import ClickSegmenter
from .cpu.onnxruntime_engine import import_onnxruntime
from .cpu.openvino_engine import computes_bf16
from .device.cuda_driver import query_cuda_driver
from .device.engines.library import MODULES, check_library, query_tensorrt
from .device.readiness import backend_problem
from .segmenter import Segmenter
from .settings import available_cores
from .worker_shape import processor

REQUIRED = ("jointrt", "numpy", "opencv-python", "av", "pillow", "jinja2", "pydantic", "rich", "typer")
OPTIONAL = {
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "openvino": "openvino",
    "torch": "export",
    "onnx": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
    "pycuda": "pycuda",
}
"""Distributions, and the extra that brings each."""

DOUBLING_GRAPH = bytes.fromhex(
    "080912003a350a0e0a01780a017812017922034164641201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02"
    "080142040a001014"
)
"""An ONNX model, opset 20: y = x + x, both of one fp32 number."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        part: "versions", "devices", "providers", "backends", "TensorRT" or "bundles".
        name: what was looked at.
        found: what was found.
        works: whether it can be used; None where it is neither needed nor wrong.
    """

    part: str
    name: str
    found: str
    works: bool | None


@dataclass(frozen=True, slots=True)
class Report:
    """All findings."""

    findings: tuple[Finding, ...]

    @property
    def usable(self) -> bool:
        """Whether at least one provider or backend and one bundle work."""
        working = {finding.part for finding in self.findings if finding.works}
        return "bundles" in working and not working.isdisjoint(("providers", "backends"))


def examine() -> Report:
    """Look at everything. Bundles are loaded, tiny sessions are run; torch is imported where there is a GPU."""
    return Report(
        (*_versions(), *_devices(), *_providers(), *_backends(), *_tensorrt(), *_bundles(), *_click_bundles())
    )


def print_report(report: Report) -> None:
    """A table on the standard output."""
    table = Table("", "", "", "found", show_edge=False)
    table.columns[3].overflow = "fold"
    signs = {True: "[green]works[/]", False: "[red]fails[/]", None: ""}
    part = ""
    for finding in report.findings:
        if part and finding.part != part:
            table.add_section()
        heading = "" if finding.part == part else finding.part
        table.add_row(heading, finding.name, signs[finding.works], escape(finding.found))
        part = finding.part
    console = Console()
    console.print(table)
    if not report.usable:
        console.print("nothing can run here: see the lines in red", style="red")


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "python", f"{platform.python_version()}, {platform.platform()}", None)
    for name in REQUIRED:
        yield Finding("versions", name, _version(name) or "not installed", None if _version(name) else False)
    for name, extra in OPTIONAL.items():
        yield Finding("versions", name, _version(name) or f"not installed (extra: {extra})", None)
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        yield Finding(
            "versions", "onnxruntime twice", "two packages in one folder: uninstall both, then install one", False
        )


def _devices() -> Iterator[Finding]:
    cores = available_cores()
    yield Finding("devices", "CPU", f"{processor()}, {cores} core{'s' * (cores != 1)} for this process", True)
    driver = query_cuda_driver()
    if driver.cuda_version is not None:
        major, minor = driver.cuda_version
        yield Finding("devices", "NVIDIA driver", f"runs CUDA up to {major}.{minor}", driver.problem is None)
    if driver.problem is not None:
        yield Finding("devices", "GPU", driver.problem, None)
    for device in driver.devices:
        major, minor = device.compute_capability
        found = f"{device.name}, compute capability {major}.{minor}, {device.memory / 2**30:.0f} GiB"
        yield Finding("devices", "GPU", found, None)


def _providers() -> Iterator[Finding]:
    """The installed list of providers names some that cannot be used: only a session that has one proves it."""
    try:
        ort = import_onnxruntime()
    except DependencyError as error:
        needed = importlib.util.find_spec("openvino") is None
        yield Finding("providers", "ONNX Runtime", str(error), False if needed else None)
        return
    ort.set_default_logger_severity(4)
    for provider in ort.get_available_providers():
        # Listed by every build; it sends requests to a service.
        if provider == "AzureExecutionProvider":
            continue
        problem = _try_provider(ort, provider)
        yield Finding("providers", provider, problem or "ran a graph", problem is None)


def _try_provider(ort: Any, provider: str) -> str | None:
    """Why a provider cannot be used; None if a graph ran with it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        # On failure the library prints and falls back.
        with contextlib.redirect_stdout(io.StringIO()):
            session = ort.InferenceSession(DOUBLING_GRAPH, options, providers=[provider])
        if provider not in session.get_providers():
            return "listed, but a session falls back to another"
        (doubled,) = session.run(None, {"x": np.array([21], np.float32)})
    except Exception as error:
        return " ".join(str(error).split())[:200]
    return None if doubled[0] == 42 else f"computes 21 + 21 = {doubled[0]}"


def _backends() -> Iterator[Finding]:
    """What `--backend NAME` would meet, the bundle apart."""
    try:
        narrow = "also in bf16" if computes_bf16() else "not in bf16, as this processor has no such products"
        yield Finding("backends", "cpu, openvino", f"can be used, {narrow}", True)
    except DependencyError as error:
        yield Finding("backends", "cpu, openvino", str(error), None)
    problem = query_cuda_driver().problem
    for backend in BACKENDS:
        if "cuda" in backend.devices:
            reason = problem or backend_problem(backend.name)
            found = reason or f"{backend.title} can be used"
            yield Finding("backends", f"cuda, {backend.name}", found, None if reason else True)


def _tensorrt() -> Iterator[Finding]:
    """Whether each library could run engines here; none is needed."""
    driver = query_cuda_driver()
    for backend in MODULES:
        library = query_tensorrt(backend)
        try:
            device = check_library(library, driver)
        except JointError as error:
            reason = str(error)
            if library.version is not None:
                # Only TensorRT-RTX builds for a GPU that is not there.
                builds = " builds with --target;" if backend == "tensorrt-rtx" else ""
                reason = f"{library.version}:{builds} {reason}"
            yield Finding("TensorRT", backend, reason, None)
            continue
        yield Finding("TensorRT", backend, f"{library.version}, fits the driver and {device.name}", True)


def _click_bundles() -> Iterator[Finding]:
    for path in sorted(ENGINES.glob(f"*/{MANIFEST}")):
        folder = path.parent
        if not is_for_clicks(folder):
            continue
        try:
            began = time.perf_counter()
            manifest = ClickSegmenter.load(folder).bundle.manifest
            seconds = time.perf_counter() - began
        except JointError as error:
            # Nobody needs clicks where only a GPU's libraries are installed.
            yield Finding("bundles", folder.name, str(error), None if isinstance(error, DependencyError) else False)
            continue
        size = sum((folder / name).stat().st_size for name in manifest.files) / 1e6
        said = f"for clicks, crop {manifest.crop}x{manifest.crop}, {size:.0f} MB, loaded in {seconds:.1f} s"
        yield Finding("bundles", folder.name, said, True)


def _bundles() -> Iterator[Finding]:
    folders = installed_bundles()
    if not folders:
        yield Finding("bundles", "none", "make one with `jointrt export --weights W.safetensors --out DIR`", False)
    for folder in folders:
        try:
            began = time.perf_counter()
            bundle = Bundle.open(folder)
            manifest = bundle.manifest
            if manifest.backend == "onnx":
                Segmenter.load(bundle)
            seconds = time.perf_counter() - began
        except JointError as error:
            yield Finding("bundles", folder.name, str(error), False)
            continue
        height, width = manifest.geometry.crop_size
        size = sum((folder / name).stat().st_size for name in manifest.files) / 1e6
        yield Finding(
            "bundles",
            folder.name,
            f"{manifest.backend} {manifest.precision}, crop {width}x{height}, memory {manifest.defaults.memory}, "
            f"interval {manifest.defaults.interval}, {size:.0f} MB, loaded in {seconds:.1f} s",
            True,
        )
