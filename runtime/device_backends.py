"""Which backend runs a bundle on a device: what there is, what can be used here, and which is taken.

Backends are named by the path of the module that loads their engines, as the table says, and imported when they are
asked for: the torch backend needs the model, which this folder may not import.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DependencyError, DeviceError, JointError, SettingsError
from .bundle import Bundle
from .cpu.openvino_engine import HINTS
from .cpu_backends import CPU_BACKENDS, split_backend
from .device.cuda_driver import query_cuda_driver
from .settings import Settings

if TYPE_CHECKING:
    from .device.follower import BatchSegmenter, DeviceSegmenter
    from .device.network import DeviceNetwork
    from .segmenter import Segmenter

PRECISIONS = {"torch": ("fp16", "fp32"), "openvino": tuple(HINTS)}
"""Precisions that can be asked for at run time, by backend; other engines have that of their build."""
WEIGHTS = "weights.safetensors"
"""The bundle's own weights, which the torch backend runs."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way to run a bundle on a device.

    Attributes:
        title: as a user reads it.
        module: has `load_engines(bundle, settings, *, device, stream, precision) -> {graph: DeviceEngine}`.
        bundles: kinds of bundles whose engines it runs; none for the bundle's weights.
        missing: why a bundle does not suit it, and what to do.
        gpu_only: whether it needs a GPU.
    """

    title: str
    module: str
    bundles: tuple[str, ...]
    missing: str
    gpu_only: bool = False

    def lacks(self, bundle: Bundle, device: str) -> str | None:
        """Why it cannot run a bundle on a device; None if it can."""
        if self.gpu_only and device == "cpu":
            return f"{self.title} needs a GPU (--device cuda)"
        suits = bundle.manifest.backend in self.bundles if self.bundles else WEIGHTS in bundle.manifest.files
        return None if suits else self.missing


BACKENDS = {
    "tensorrt": Backend(
        "TensorRT",
        ".device.engines.tensorrt",
        ("tensorrt", "tensorrt-rtx"),
        "the bundle holds no TensorRT engines (`jointrt build BUNDLE --backend tensorrt`)",
        gpu_only=True,
    ),
    "torch": Backend(
        "PyTorch", ".device.engines.torch", (), f"the bundle holds no {WEIGHTS} (`jointrt export` puts them in)"
    ),
    "onnxruntime": Backend(
        "ONNX Runtime",
        ".device.engines.onnxruntime",
        ("onnxruntime-cuda",),
        "the bundle holds no ONNX graphs of fixed memory (`jointrt build BUNDLE --backend onnxruntime`)",
    ),
}
"""In the order in which "auto" takes them, the fastest first."""
CHOICES = ("auto", *BACKENDS, "openvino")
"""What may be asked for; OpenVINO runs ONNX graphs on the CPU only, see `cpu_backends`."""


def check_choice(backend: str, device: str) -> None:
    """Refuse a backend or device that there is none of.

    Raises:
        SettingsError: the backend or its precision is unknown.
        DeviceError: the device is, or the backend does not run there.
    """
    name, precision = split_backend(backend)
    if name not in CHOICES:
        raise SettingsError(f"backend is {name!r}: expected one of {', '.join(CHOICES)}")
    if precision is not None and precision not in PRECISIONS.get(name, ()):
        known = ", ".join(f"{other}:{p}" for other, values in PRECISIONS.items() for p in values)
        raise SettingsError(f"backend is {backend!r}: expected a backend alone, or one of {known}")
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind == "cpu" or not number.isdecimal())):
        raise DeviceError(f"device {device!r} cannot be used: expected 'cpu', 'cuda' or 'cuda:1'")
    if name == "openvino" and kind != "cpu":
        raise DeviceError("backend openvino runs on the CPU only: leave --device out, or take another backend")


def choose_backend(bundle: Bundle, backend: str, device: str) -> tuple[str, str]:
    """The backend that runs a bundle on a device, and why.

    Raises:
        DeviceError: the one asked for cannot, or none can.
    """
    name, _ = split_backend(backend)
    if name != "auto":
        reason = BACKENDS[name].lacks(bundle, device)
        if reason is not None:
            raise DeviceError(f"backend {name} cannot run {bundle.folder}: {reason}")
        return name, "as asked for"
    reasons = {name: candidate.lacks(bundle, device) for name, candidate in BACKENDS.items()}
    for place, (name, reason) in enumerate(reasons.items()):
        if reason is None:
            return name, "; ".join([r for r in list(reasons.values())[:place] if r]) or "the fastest"
    raise DeviceError(f"no backend runs {bundle.folder} on {device}: " + "; ".join(r for r in reasons.values() if r))


def runs_on_device(bundle: Bundle, backend: str, device: str) -> bool:
    """Whether the device's orchestrator runs a bundle; the CPU's runs ONNX graphs whose memory grows.

    Raises:
        DeviceError, SettingsError: there is no such device or backend, or it does not suit the bundle.
    """
    check_choice(backend, device)
    name, _ = split_backend(backend)
    grows = device == "cpu" and bundle.manifest.backend == "onnx"
    if name == "openvino" and not grows:
        raise DeviceError(
            f"backend openvino cannot run {bundle.folder}: it holds {bundle.manifest.backend} graphs, expected onnx"
        )
    return not grows or name not in ("auto", *CPU_BACKENDS)


def check_usable(bundle: Bundle, backend: str, device: str) -> str:
    """The name of the backend that will run a bundle on a device; loads nothing.

    Raises:
        DependencyError: torch is not installed.
        DeviceError: there is no usable GPU, no backend suits the bundle, or torch cannot use the GPU.
        SettingsError: the backend is unknown.
    """
    check_choice(backend, device)
    if device != "cpu":
        _refuse_missing_driver(device)
    chosen, _ = choose_backend(bundle, backend, device)
    if host_driven(chosen, device) is None:
        _refuse_unfit_torch(device)
    return chosen


def host_driven(backend: str, device: str) -> str | None:
    """Why engines are driven from the host, through pycuda; None where torch orders the work on the device.

    Only TensorRT's can be: where torch is not installed, or cannot use the GPU and pycuda is installed.
    """
    problem = _torch_problem(device) if backend == "tensorrt" else None
    if isinstance(problem, DependencyError):
        return "torch is not installed"
    if problem is None or importlib.util.find_spec("pycuda") is None:
        return None
    return str(problem)


def _refuse_missing_driver(device: str) -> None:
    driver = query_cuda_driver()
    if driver.problem is not None:
        raise DeviceError(f"device {device!r} cannot be used: {driver.problem}; use --device cpu")
    if _ordinal(device) >= len(driver.devices):
        found = f"{len(driver.devices)} GPU{'s' * (len(driver.devices) != 1)}, counted from cuda:0"
        raise DeviceError(f"device {device!r} cannot be used: the driver shows {found}")


def _ordinal(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _refuse_unfit_torch(device: str) -> None:
    problem = _torch_problem(device)
    if isinstance(problem, DeviceError):
        raise DeviceError(
            f"device {device!r} cannot be used: {problem}: install a torch for that (TensorRT engines also run "
            "without, through pycuda: `pip install 'jointrt[pycuda]'`)"
        )
    if problem is not None:
        raise problem


def _torch_problem(device: str) -> JointError | None:
    """Why torch cannot order the work on a device: it is not installed, or it cannot use the GPU."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return DependencyError(
            "torch is not installed, which orders the work on a device: install it with `pip install 'jointrt[gpu]'`"
        )
    with warnings.catch_warnings():
        # What torch warns of is the answer.
        warnings.simplefilter("ignore")
        if device == "cpu" or torch.cuda.is_available():
            return None
    built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
    newest = "{}.{}".format(*query_cuda_driver().cuda_version or (0, 0))
    return DeviceError(f"torch {torch.__version__} is built {built}, the driver runs CUDA up to {newest}")


def backend_problem(backend: str) -> str | None:
    """Why a backend could not be used on the first GPU, whatever the bundle; None if nothing speaks against it."""
    needs = {"torch": ("torch", "safetensors"), "onnxruntime": ("torch", "onnxruntime"), "tensorrt": ()}[backend]
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (extra: gpu)"
    if backend == "tensorrt" and not any(importlib.util.find_spec(m) for m in ("tensorrt", "tensorrt_rtx")):
        return "neither tensorrt nor tensorrt-rtx is installed (extras of these names)"
    if backend == "onnxruntime":
        ort = importlib.import_module("onnxruntime")
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            return f"onnxruntime {ort.__version__} is the package for CPUs (extra: gpu)"
    try:
        _refuse_missing_driver("cuda")
        if host_driven(backend, "cuda") is None:
            _refuse_unfit_torch("cuda")
        elif importlib.util.find_spec("pycuda") is None:
            return "neither torch nor pycuda is installed (extras: gpu, pycuda)"
    except JointError as error:
        return str(error)
    return None


def load_device_network(
    bundle: str | Path | Bundle,
    *,
    device: str,
    backend: str = "auto",
    precision: str | None = None,
    **options: Any,
) -> tuple[DeviceNetwork, str]:
    """A bundle's engines on a device, and a line that says which and why.

    Args:
        bundle: name, folder, or an opened bundle.
        device: "cuda", "cuda:1", ...; "cpu" runs the same orchestrator on the host.
        backend: "auto", "tensorrt", "torch" or "onnxruntime"; "torch:fp32" as with `precision`.
        precision: "fp16" or "fp32", of the torch backend; None for fp16 on a GPU. Engines have that of their build.
        options: see `Settings.resolve`.

    Raises:
        BundleError: the bundle is not whole, or its engines do not load.
        DependencyError: a library is missing.
        DeviceError: there is no usable GPU, or the backend does not suit the bundle.
        SettingsError: a setting is out of its range.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    settings = Settings.resolve(opened.manifest.defaults, **options)
    check_usable(opened, backend, device)
    _refuse_unfit_torch(device)
    chosen, why = choose_backend(opened, backend, device)
    from torch import device as torch_device

    from .device.network import DeviceNetwork
    from .device.replay import Lane

    lane = Lane(torch_device(device))
    module = _import(BACKENDS[chosen].module, BACKENDS[chosen].title)
    with lane.work():
        if chosen == "tensorrt":
            engines = module.load_engines(opened, settings, device=device, allocate=lane.allocate)
        else:
            precision = precision or split_backend(backend)[1]
            engines = module.load_engines(opened, settings, device=device, stream=lane.handle, precision=precision)
    lane.wait()
    network = DeviceNetwork(engines, opened.manifest.geometry, settings, lane)
    return network, f"{BACKENDS[chosen].title} on {_name_of(device)}: {why}"


def _name_of(device: str) -> str:
    return "the CPU" if device == "cpu" else query_cuda_driver().devices[_ordinal(device)].name


def _import(name: str, title: str) -> Any:
    try:
        return importlib.import_module(name, __package__)
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{error.name} is not installed, which the {title} backend needs: install it with "
            "`pip install 'jointrt[gpu]'`"
        ) from None


def load_device_segmenter(
    bundle: str | Path | Bundle, *, device: str, backend: str = "auto", **options: Any
) -> DeviceSegmenter | Segmenter:
    """One video on a device; arguments and errors as of `load_device_network`.

    Where torch is not installed or cannot use the GPU, TensorRT engines are driven from the host, through pycuda.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    reason = host_driven(check_usable(opened, backend, device), device)
    if reason is not None:
        return _load_host_driven(opened, device, reason, **options)
    network, runs_on = load_device_network(opened, device=device, backend=backend, **options)
    from .device.follower import DeviceSegmenter

    return DeviceSegmenter(network, runs_on)


def _load_host_driven(
    bundle: Bundle, device: str, reason: str, *, precision: str | None = None, **options: Any
) -> Segmenter:
    from .clock import StageClock
    from .segmenter import Segmenter

    del precision
    settings, clock = Settings.resolve(bundle.manifest.defaults, **options), StageClock()
    network = _import(".host_driven.pycuda_memory", "TensorRT").pycuda_network(bundle, settings, clock, device)
    segmenter = Segmenter(network, bundle.manifest.geometry, settings, clock)
    segmenter.runs_on = f"TensorRT driven from the host on {_name_of(device)}: {reason}"
    return segmenter


def load_batch_segmenter(bundle: str | Path | Bundle, videos: int, **options: Any) -> BatchSegmenter:
    """Several videos on a device in one batch; further arguments as of `load_device_network`."""
    if not 1 <= videos <= 256:
        raise SettingsError(f"videos is {videos}: expected 1 to 256")
    network, _ = load_device_network(bundle, **options)
    from .device.follower import BatchSegmenter

    return BatchSegmenter(network, videos)
