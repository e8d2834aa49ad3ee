"""The PyTorch network on a device, without a bundle: for what measures and tests it."""

from __future__ import annotations

import torch

from ...model.network import JointNet
from ...runtime.device.engines.torch import Precision, torch_engines
from ...runtime.device.network import DeviceNetwork
from ...runtime.device.replay import Lane
from ...runtime.settings import Settings
from .reference import geometry_of


def torch_network(
    net: JointNet,
    settings: Settings,
    precision: Precision,
    device: torch.device | str,
    capacity: int | None = None,
    **options: bool,
) -> DeviceNetwork:
    """Engines of a network on a lane of their own.

    Args:
        net: on any device; it is copied.
        settings: of the orchestrator.
        precision: "fp32" or "fp16".
        device: "cuda", "cpu", ...
        capacity: slots of the memory; those that the settings ask for if None.
        options: of `torch_engines`.
    """
    engines = torch_engines(net, capacity or settings.memory, precision, device, **options)
    return DeviceNetwork(engines, geometry_of(net.config), settings, Lane(torch.device(device)))
