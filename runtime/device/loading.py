"""A bundle's engines, loaded on a device. Imports torch."""

from __future__ import annotations

from torch import device as torch_device

from ...errors import DependencyError
from ..backends import Choice, Name
from ..bundle import Bundle
from ..settings import Settings
from .engines.protocol import DeviceEngine
from .network import DeviceNetwork
from .readiness import refuse_unfit_torch
from .replay import Lane


def load_network(bundle: Bundle, choice: Choice, settings: Settings) -> DeviceNetwork:
    """The engines that a choice runs; `readiness.check_ready` comes first.

    Raises:
        BundleError: the bundle is not whole, or its engines do not load.
        DependencyError: a library is missing.
        DeviceError: driver, GPU or torch do not fit.
        SettingsError: the memory is larger than the engines'.
    """
    refuse_unfit_torch(choice.device)
    lane = Lane(torch_device(choice.device))
    try:
        with lane.work():
            engines = load_engines(bundle, choice, settings, lane)
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{error.name} is not installed, which the {choice.backend.title} backend needs: install it with "
            f"`pip install 'jointrt[{choice.backend.extra}]'`"
        ) from None
    lane.wait()
    network = DeviceNetwork(engines, bundle.manifest.geometry, settings, lane)
    network.compiled = choice.name is Name.COMPILED
    network.overlapped = lane.device.type == "cuda" and choice.name in (Name.TORCH, Name.COMPILED)
    return network


def load_engines(bundle: Bundle, choice: Choice, settings: Settings, lane: Lane) -> dict[str, DeviceEngine]:
    """The engines that a choice runs. Libraries are imported for it only; the lane's work must be entered."""
    if choice.name is Name.TENSORRT:
        from .engines import tensorrt

        return {**tensorrt.load_engines(bundle, settings, device=choice.device, allocate=lane.allocate)}
    if choice.name is Name.AOTI:
        from .engines import aoti

        return {**aoti.load_engines(bundle, settings, device=choice.device)}
    if choice.name in (Name.TORCH, Name.COMPILED):
        from .engines import torch

        compiled = choice.name is Name.COMPILED
        return torch.load_engines(bundle, settings, device=choice.device, precision=choice.precision, compiled=compiled)
    from .engines import onnxruntime

    return onnxruntime.load_engines(bundle, settings, device=choice.device, stream=lane.handle)
