"""The gate once more, on this machine and by any backend."""

from __future__ import annotations

from ...model.network import JointNet
from ...runtime.backends import AUTO, Name, Orchestrator, Precision
from ...runtime.bundle import Bundle
from ...runtime.device.readiness import choose_ready
from ...runtime.manifest import Parity
from .device import measure_on_device
from .graphs import measure


def verify_bundle(bundle: Bundle, net: JointNet, backend: str = AUTO, device: str = "cpu") -> tuple[Parity, str]:
    """Graphs and masks against the PyTorch network, and the precision by which they are judged: see `graphs.LIMITS`.

    Args:
        bundle: opened.
        net: what it was made from.
        backend, device: as of `backends.choose`; "auto" is ONNX Runtime for ONNX graphs on the CPU.

    Raises:
        BundleError: the bundle was made for another network.
        JointError: the backend does not run it here.
    """
    usual = bundle.manifest.backend == "onnx" and (backend, device) == (AUTO, "cpu")
    choice = choose_ready(bundle, Name.ONNXRUNTIME if usual else backend, None, device)
    if choice.orchestrator is Orchestrator.DEVICE:
        return measure_on_device(bundle, net, choice), choice.precision
    built = bundle.manifest.precision
    limits = built if built != Precision.FP32 else choice.precision
    return measure(bundle, net, choice), "" if limits == Precision.FP32 else limits
