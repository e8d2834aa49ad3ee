"""The gate for a bundle on a device, by whatever is chosen to run it.

PyTorch's own graphs lay out and scale some values as they like: what only the same engines read is not compared there,
but handed on from graph to graph as they made it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...model.network import JointNet
from ...runtime.backends import Choice, Name
from ...runtime.bundle import Bundle
from ...runtime.device.engines.protocol import DeviceArray, DeviceEngine
from ...runtime.device.loading import load_engines
from ...runtime.host_driven.network import Device, fetch, port_type, put
from ...runtime.manifest import GraphParity, Parity
from ...runtime.settings import Settings
from ..graphs.few_shot_loop import LOOPS
from .engines import cases, measure_engines
from .graphs import closed_loop, differences, worst
from .torch_device import TorchDevice

_PRIVATE = ("query", "key", "key_all", "key_cross_all", "C", "C_all", "D", "D_all")
"""Beside the trunk's layers; see `protocol.DeviceEngine`."""


def _is_private(port: str) -> bool:
    return port.startswith("layer") or port.removesuffix("_next") in _PRIVATE


def graphs_in_turn(
    engines: Mapping[str, DeviceEngine], device: Device, net: JointNet, capacity: int, objects: int
) -> tuple[GraphParity, ...]:
    """Each graph that gives something public against the PyTorch network, the worst of its calls.

    Args:
        engines: all graphs, with so many slots of memory.
        device: where they run.
        net: what they were made from, on the CPU.
        capacity: slots of the memory.
        objects: in each call.
    """
    kept: dict[str, DeviceArray] = {}
    errors: dict[str, list[tuple[float, float, float]]] = {}
    for case in cases(net, capacity, objects):
        if case.graph in LOOPS:
            continue
        engine = engines[case.graph]
        known = case.inputs | case.expected
        arrays = {n: device.zeros(tuple(known[n].shape), port_type(engine.ports[n])) for n in engine.ports}
        for name, tensor in case.inputs.items():
            if not _is_private(name):
                put(device, arrays[name], tensor.numpy())
            elif name in kept:
                arrays[name] = kept[name]
        engine.bind(arrays).enqueue(device.stream)
        kept |= {name.removesuffix("_next"): arrays[name] for name in case.expected if _is_private(name)}
        for name, tensor in case.expected.items():
            if not _is_private(name):
                found = fetch(device, arrays[name]).astype(np.float32)
                errors.setdefault(case.graph, []).append(differences(found, tensor.numpy()))
    return tuple(worst(graph, found) for graph, found in errors.items())


def measure_on_device(bundle: Bundle, net: JointNet, choice: Choice) -> Parity:
    """Graphs and masks of a bundle as a choice runs it on a device, against the PyTorch network.

    Args:
        bundle: opened.
        net: what it was made from, on the CPU.
        choice: one whose work is ordered on the device.

    Raises:
        JointError: the choice does not run the bundle here.
    """
    defaults, device = bundle.manifest.defaults, TorchDevice(torch.device(choice.device))
    with torch.inference_mode(), device.current():
        engines = load_engines(bundle, choice, Settings.resolve(defaults), device.lane)
        if choice.name in (Name.TENSORRT, Name.ONNXRUNTIME):
            return measure_engines(engines, bundle.manifest.graphs, device, net, defaults)
        graphs = [graphs_in_turn(engines, device, net, defaults.memory, objects) for objects in (1, 2)]
    return Parity(
        graphs=tuple(max(pair, key=lambda graph: graph.rel_l2) for pair in zip(*graphs, strict=True)),
        closed_loop=closed_loop(bundle, net, choice),
    )
