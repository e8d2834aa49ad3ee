"""What can run a bundle, and what does: the table of backends, and one choice from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ..errors import DeviceError, SettingsError
from .bundle import WEIGHTS, Bundle

AUTO = "auto"


class Name(StrEnum):
    """What may be asked for, besides "auto"."""

    TENSORRT = "tensorrt"
    TORCH = "torch"
    COMPILED = "torch:compiled"
    AOTI = "aoti"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"


class Precision(StrEnum):
    """Numbers that a backend computes with where the bundle leaves it the choice."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Orchestrator(StrEnum):
    """What follows the objects: wings of this folder."""

    HOST = "tracking"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a bundle.

    Attributes:
        name: as it is asked for.
        title: as a user reads it.
        orchestrator: what follows the objects.
        devices: kinds of devices, the usual one first.
        bundles: kinds of bundles whose graphs it runs; none for the bundle's weights.
        precisions: that can be asked for, the usual one first; none where graphs have that of their build.
        extra: of jointrt, which installs it.
        lacking: what a bundle that does not suit has not, and what to do.
    """

    name: Name
    title: str
    orchestrator: Orchestrator
    devices: tuple[str, ...]
    bundles: tuple[str, ...]
    precisions: tuple[Precision, ...]
    extra: str
    lacking: str

    def suits(self, bundle: Bundle) -> bool:
        """Whether it can run a bundle's graphs or weights."""
        return bundle.manifest.backend in self.bundles if self.bundles else WEIGHTS in bundle.manifest.files

    def usual_precision(self, device: str) -> str:
        """What is computed in unless another precision is asked for; empty where graphs have that of their build."""
        half = Precision.FP16 in self.precisions and device != "cpu"
        return Precision.FP16 if half else "".join(self.precisions[:1])

    def precision(self, bundle: Bundle, asked: str | None, device: str) -> str:
        """The precision that it computes in.

        Raises:
            SettingsError: another one was asked for.
        """
        if not self.precisions:
            built = bundle.manifest.precision
            if asked not in (None, built):
                raise SettingsError(
                    f"precision is {asked!r}: {self.title}'s graphs have that of their build, which is {built} in "
                    f"{bundle.folder}; leave it out, or build them again with `jointrt build`"
                )
            return built
        if asked is None:
            return self.usual_precision(device)
        if asked not in tuple(self.precisions):
            raise SettingsError(
                f"precision is {asked!r}: expected {' or '.join(self.precisions)} of {self.title} on {_place(device)}"
            )
        return asked


BACKENDS = (
    Backend(
        Name.OPENVINO,
        "OpenVINO",
        Orchestrator.HOST,
        ("cpu",),
        ("onnx",),
        (Precision.FP32, Precision.BF16),
        "openvino",
        "expected ONNX graphs of a memory that grows (`jointrt export`)",
    ),
    Backend(
        Name.ONNXRUNTIME,
        "ONNX Runtime",
        Orchestrator.HOST,
        ("cpu",),
        ("onnx",),
        (Precision.FP32,),
        "cpu",
        "expected ONNX graphs of a memory that grows (`jointrt export`)",
    ),
    Backend(
        Name.TENSORRT,
        "TensorRT",
        Orchestrator.DEVICE,
        ("cuda",),
        ("tensorrt", "tensorrt-rtx"),
        (),
        "tensorrt",
        "the bundle holds no TensorRT engines (`jointrt build BUNDLE --backend tensorrt`)",
    ),
    Backend(
        Name.TORCH,
        "PyTorch",
        Orchestrator.DEVICE,
        ("cuda", "cpu"),
        (),
        (Precision.FP32, Precision.FP16),
        "gpu",
        f"the bundle holds no {WEIGHTS} (`jointrt export` puts them in)",
    ),
    Backend(
        Name.AOTI,
        "PyTorch, compiled ahead,",
        Orchestrator.DEVICE,
        ("cuda", "cpu"),
        ("aoti",),
        (),
        "gpu",
        "the bundle holds no packages of AOTInductor (`jointrt build BUNDLE --backend aoti`)",
    ),
    Backend(
        Name.COMPILED,
        "PyTorch, compiled,",
        Orchestrator.DEVICE,
        ("cuda", "cpu"),
        (),
        (Precision.FP32, Precision.FP16),
        "gpu",
        f"the bundle holds no {WEIGHTS} (`jointrt export` puts them in)",
    ),
    Backend(
        Name.ONNXRUNTIME,
        "ONNX Runtime",
        Orchestrator.DEVICE,
        ("cuda", "cpu"),
        ("onnxruntime-cuda",),
        (),
        "gpu",
        "the bundle holds no ONNX graphs of fixed memory (`jointrt build BUNDLE --backend onnxruntime`)",
    ),
)
"""In the order in which "auto" takes them."""
CHOICES = (AUTO, *Name)


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a bundle; as text, what `choose` takes to choose the same.

    Attributes:
        name: of the backend.
        precision: in which it computes: "fp32", "fp16", "bf16", "int8".
        device: "cpu", "cuda", "cuda:1", ...
        why: why it was chosen; empty where it is usual.
        backend: the row of the table.
    """

    name: Name
    precision: str
    device: str
    why: str
    backend: Backend

    def __str__(self) -> str:
        usual = self.backend.precisions[:1]
        return self.name if self.precision in (*usual, "") or not usual else f"{self.name}:{self.precision}"

    @property
    def orchestrator(self) -> Orchestrator:
        """What follows the objects."""
        return self.backend.orchestrator

    @property
    def identity(self) -> dict[str, str]:
        """What of the choice decides the masks."""
        kind = self.device.partition(":")[0]
        return {"backend": self.name, "precision": self.precision, "device": kind, "orchestrator": self.orchestrator}

    def runs_on(self, place: str | None = None) -> str:
        """As a user reads it; `place` is the device's name."""
        note = f", {self.precision}," if self.precision == Precision.BF16 else ""
        return f"{self.backend.title}{note} on {place or _place(self.device)}" + (f": {self.why}" if self.why else "")


def _place(device: str) -> str:
    return "the CPU" if device == "cpu" else device


def split_backend(backend: str) -> tuple[str, str | None]:
    """Name and precision of "NAME" or "NAME:PRECISION".

    Raises:
        SettingsError: there is no such backend, or none that computes in this precision.
    """
    fitting = [choice for choice in CHOICES if f"{backend}:".startswith(f"{choice}:")]
    if not fitting:
        raise SettingsError(f"backend is {backend.partition(':')[0]!r}: expected one of {', '.join(CHOICES)}")
    name = max(fitting, key=len)
    precision = backend[len(name) + 1 :]
    known = {f"{b.name}:{p}": None for b in BACKENDS for p in b.precisions if len(b.precisions) > 1}
    if precision and backend not in known:
        raise SettingsError(f"backend is {backend!r}: expected a backend alone, or one of {', '.join(known)}")
    return name, precision or None


def check_device(device: str) -> str:
    """The kind of a device, "cpu" or "cuda".

    Raises:
        DeviceError: it is none.
    """
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdecimal())):
        raise DeviceError(f"device {device!r} cannot be used: expected 'cpu', 'cuda' or 'cuda:1'")
    return kind


def default_bundle(backend: str = AUTO, device: str = "cpu") -> str:
    """Name of the shipped bundle that is taken where none is named: in 8 bits where the CPU's own graphs run.

    Raises:
        SettingsError, DeviceError: there is no such backend or device.
    """
    name, _ = split_backend(backend)
    return "lite-int8" if check_device(device) == "cpu" and name not in (Name.TORCH, Name.COMPILED) else "lite"


def candidates(backend: str, device: str) -> list[Backend]:
    """Rows of the table that were asked for and run on a device.

    Raises:
        DeviceError: there is no such device, or the backend does not run there.
        SettingsError: there is no such backend.
    """
    kind = check_device(device)
    name, _ = split_backend(backend)
    there = [b for b in BACKENDS if name in (AUTO, b.name) and kind in b.devices]
    if there:
        return there
    if kind == "cpu":
        raise DeviceError(f"backend {name} needs a GPU (--device cuda)")
    raise DeviceError(f"backend {name} runs on the CPU only: leave --device out, or take another backend")


def choose(
    bundle: Bundle,
    backend: str = AUTO,
    precision: str | None = None,
    device: str = "cpu",
    speeds: Mapping[Name, float] = MappingProxyType({}),
) -> Choice:
    """What runs a bundle on a device; loads nothing and asks no driver.

    On the CPU "auto" takes OpenVINO for graphs in 8 bits, where it is installed; those in fp32 it runs no faster, and
    gets them where ONNX Runtime is not installed. bf16 changes masks and is never taken unless asked for.

    Args:
        bundle: opened.
        backend: "auto", or a `Name`; "openvino:bf16" as with `precision`.
        precision: of `Precision`; what is usual if None.
        device: "cpu", "cuda", "cuda:1", ...
        speeds: milliseconds per frame on this device, where they were measured; "auto" takes the fastest.

    Raises:
        DeviceError: there is no such device, or nothing that was asked for runs the bundle there.
        SettingsError: there is no such backend, or it does not compute in this precision.
    """
    there = candidates(backend, device)
    name, suffix = split_backend(backend)
    if precision and suffix and precision != suffix:
        raise SettingsError(f"precision is {precision!r} and backend {backend!r}: expected one precision")
    precision = precision or suffix
    suitable = [b for b in there if b.suits(bundle)]
    if name == AUTO:
        suitable = [b for b in suitable if b.name != Name.OPENVINO or _openvino_pays(bundle)]
    if not suitable:
        reasons = "; ".join(dict.fromkeys(b.lacking for b in there))
        asked = "no backend runs" if name == AUTO else f"backend {name} cannot run"
        raise DeviceError(
            f"{asked} {bundle.folder} on {_place(device)}: it holds {bundle.manifest.backend} graphs; {reasons}"
        )
    chosen = suitable[0]
    why = _why(chosen, there, bundle) if name == AUTO else "as asked for"
    if name == AUTO and chosen.name in speeds:
        usual = chosen
        chosen = min((b for b in suitable if b.name in speeds), key=lambda b: speeds[b.name])
        if chosen is not usual:
            why = f"{speeds[chosen.name]:.2f} ms where {usual.title} takes {speeds[usual.name]:.2f}, as measured here"
    if chosen.name is Name.COMPILED:
        why += "; the first frames compile it, which takes minutes once"
    if chosen.orchestrator is Orchestrator.HOST and name != AUTO:
        why = ""
    return Choice(chosen.name, chosen.precision(bundle, precision, device), device, why, chosen)


def _openvino_pays(bundle: Bundle) -> bool:
    if importlib.util.find_spec("openvino") is None:
        return False
    return bundle.manifest.precision == "int8" or importlib.util.find_spec("onnxruntime") is None


def _why(chosen: Backend, candidates: list[Backend], bundle: Bundle) -> str:
    if chosen.orchestrator is Orchestrator.HOST:
        if chosen.name is not Name.OPENVINO:
            return ""
        return "faster in 8 bits" if bundle.manifest.precision == "int8" else "ONNX Runtime is not installed"
    before = candidates[: candidates.index(chosen)]
    return "; ".join(b.lacking for b in before if not b.suits(bundle)) or "the fastest"
