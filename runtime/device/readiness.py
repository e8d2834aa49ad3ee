"""Whether this machine can run a backend on a device, and who orders the work there: torch, or the host by pycuda."""

from __future__ import annotations

import importlib
import importlib.util
import warnings

from ...errors import DependencyError, DeviceError, JointError
from ..backends import Choice, Name, Orchestrator, candidates, choose
from ..bundle import Bundle
from .cuda_driver import device_ordinal, query_cuda_driver
from .speeds import known_speeds


def choose_ready(bundle: Bundle, backend: str, precision: str | None, device: str) -> Choice:
    """As `backends.choose`, but refuses what cannot run here; loads no engine.

    Raises:
        DependencyError: torch is not installed, which the choice needs.
        DeviceError: there is no usable GPU, or torch cannot use it; or as of `choose`.
        SettingsError: as of `choose`.
    """
    candidates(backend, device)
    if device != "cpu":
        refuse_missing_driver(device)
    speeds = {} if device == "cpu" else known_speeds(bundle.fingerprint, device_name(device))
    choice = choose(bundle, backend, precision, device, speeds)
    if choice.orchestrator is Orchestrator.DEVICE and host_driven(choice.name, device) is None:
        refuse_unfit_torch(device)
    return choice


def host_driven(name: Name, device: str) -> str | None:
    """Why engines are driven from the host, through pycuda; None where torch orders the work on the device.

    Only TensorRT's can be: where torch is not installed, or cannot use the GPU and pycuda is installed.
    """
    problem = _torch_problem(device) if name is Name.TENSORRT else None
    if isinstance(problem, DependencyError):
        return "torch is not installed"
    if problem is None or importlib.util.find_spec("pycuda") is None:
        return None
    return str(problem)


def refuse_missing_driver(device: str) -> None:
    """Raises DeviceError where the driver does not show the device."""
    driver = query_cuda_driver()
    if driver.problem is not None:
        raise DeviceError(f"device {device!r} cannot be used: {driver.problem}; use --device cpu")
    if device_ordinal(device) >= len(driver.devices):
        found = f"{len(driver.devices)} GPU{'s' * (len(driver.devices) != 1)}, counted from cuda:0"
        raise DeviceError(f"device {device!r} cannot be used: the driver shows {found}")


def refuse_unfit_torch(device: str) -> None:
    """Raises DependencyError or DeviceError where torch cannot order the work on a device."""
    problem = _torch_problem(device)
    if isinstance(problem, DeviceError):
        raise DeviceError(
            f"device {device!r} cannot be used: {problem}: install a torch for that (TensorRT engines also run "
            "without, through pycuda: `pip install 'jointrt[pycuda]'`)"
        )
    if problem is not None:
        raise problem


def device_name(device: str) -> str:
    """As a user reads it."""
    return "the CPU" if device == "cpu" else query_cuda_driver().devices[device_ordinal(device)].name


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


def backend_problem(name: Name) -> str | None:
    """Why a backend could not be used on the first GPU, whatever the bundle; None if nothing speaks against it."""
    needs = {
        **dict.fromkeys((Name.TORCH, Name.COMPILED), ("torch", "safetensors")),
        Name.AOTI: ("torch",),
        Name.ONNXRUNTIME: ("torch", "onnxruntime"),
    }.get(name, ())
    missing = [module for module in needs if importlib.util.find_spec(module) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (extra: gpu)"
    if name is Name.TENSORRT and not any(importlib.util.find_spec(m) for m in ("tensorrt", "tensorrt_rtx")):
        return "neither tensorrt nor tensorrt-rtx is installed (extras of these names)"
    if name is Name.ONNXRUNTIME:
        ort = importlib.import_module("onnxruntime")
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            return f"onnxruntime {ort.__version__} is the package for CPUs (extra: gpu)"
    try:
        refuse_missing_driver("cuda")
        if host_driven(name, "cuda") is None:
            refuse_unfit_torch("cuda")
        elif importlib.util.find_spec("pycuda") is None:
            return "neither torch nor pycuda is installed (extras: gpu, pycuda)"
    except JointError as error:
        return str(error)
    return None
