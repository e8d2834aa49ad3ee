"""The gate for engines on a device: every graph, and masks in a closed loop, against the PyTorch network on real crops.

It needs the engines and a device's memory, whatever they are: a GPU through torch or pycuda, or the host.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import DependencyError, DeviceError
from ...model.network import JointNet
from ...runtime.bundle import Bundle
from ...runtime.clock import StageClock
from ...runtime.device.cuda_driver import query_cuda_driver
from ...runtime.device.engines.library import check_engines, query_tensorrt
from ...runtime.device.engines.protocol import DeviceEngine
from ...runtime.device.engines.tensorrt import load_engines
from ...runtime.host_driven.network import Device, EngineNetwork, fetch, port_type, put
from ...runtime.host_driven.pycuda_memory import PycudaDevice
from ...runtime.manifest import ClosedLoop, Defaults, GraphParity, GraphRecord, Manifest, Parity
from ...runtime.segmenter import Segmenter
from ...runtime.settings import Settings
from ...runtime.tracking.follower import HostFollower
from ..graphs.few_shot_loop import LOOPS
from ..graphs.fixed_memory import gpu_graphs
from .graphs import compare_loops, differences, real_sample, worst
from .reference import geometry_of, reference_segmenter
from .torch_device import TorchDevice

BANKS = ("z_all", "key_all", "C_all", "D_all")


@dataclass(frozen=True, slots=True)
class Case:
    """A graph's inputs, and what the PyTorch network makes of them; by port.

    Attributes:
        judged: whether all that is expected can be compared; else it only leads to what can.
    """

    graph: str
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    judged: bool = True


def cases(net: JointNet, capacity: int, objects: int) -> Iterator[Case]:
    """Real values for every graph of fixed memory: two frames are held, of up to two objects of the shipped clip."""
    graphs = {graph.name: graph for graph in gpu_graphs(net, capacity)}
    sample = real_sample(net.config.crop_size)
    values: dict[str, Tensor] = {"crop": sample.crops[:objects], "mask": sample.masks[:objects]}

    def case(name: str, judged: bool = True) -> Case:
        graph = graphs[name]
        inputs = {port.name: values[port.name] for port in graph.inputs()}
        expected = graph.named(inputs)
        values.update(expected)
        return Case(name, inputs, expected, judged)

    def zeros(port: str) -> Tensor:
        shape = graphs["memory_update"].port(port).shape
        return torch.zeros([len(sample.crops[:objects]) if isinstance(n, str) else n for n in shape])

    def one_hot(slot: int) -> Tensor:
        chosen = zeros("slot")
        chosen[:, slot] = 1
        return chosen

    def bank(port: str, source: str) -> Tensor:
        filled = zeros(port)
        for slot in range(min(2, capacity)):
            filled[:, slot] = values[source].roll(11 * slot, 1)
        return filled

    yield case("backbone")
    yield case("label_encoder")
    # The frame in slot 0 is the same one moved along, so that it is like the next without being equal.
    x_tra = values["x_tra"]
    values |= {"x_tra": x_tra.roll(7, 1), "valid": zeros("valid"), "slot": one_hot(0)} | {b: zeros(b) for b in BANKS}
    # Keys of empty slots do not matter, but must be numbers to be compared.
    values["D_all"] = values["D_all"] + 1
    yield case("transformer_query", judged=False)
    yield case("memory_update", judged=False)
    values |= {"x_tra": x_tra, "valid": one_hot(0), "slot": one_hot(min(1, capacity - 1))}
    values |= {name: values[f"{name}_next"] for name in BANKS}
    yield case("transformer_query")
    yield case("memory_update")
    values |= {"valid": values["valid"].maximum(values["slot"]), "E_tra_all": bank("E_tra_all", "E_tra")}
    yield case("memory_read")
    values |= {name: bank(name, s) for name, s in (("z_ind", "x_ind"), ("E_ind_all", "E_ind"), ("W_all", "W"))}
    values |= {"sample_weights": 0.75 * one_hot(0) + 0.25 * one_hot(min(1, capacity - 1)), "omega": zeros("omega")}
    for name, steps in LOOPS.items():
        begin = case("few_shot_residual")
        yield begin
        step = case("few_shot_step")
        yield step
        for _ in range(steps - 1):
            values |= {"omega": values["omega_next"], "residual": values["residual_next"]}
            step = case("few_shot_step")
        yield Case(name, begin.inputs, {"omega_next": step.expected["omega_next"]})
        values["omega"] = values["omega_next"]
    yield case("decoder")


def graph_error(engine: DeviceEngine, device: Device, case: Case) -> GraphParity:
    """One call of an engine against what is expected, the worst of its outputs."""
    known = case.inputs | case.expected
    arrays = {n: device.zeros(tuple(known[n].shape), port_type(engine.ports[n])) for n in engine.ports}
    for name, tensor in case.inputs.items():
        put(device, arrays[name], tensor.numpy())
    engine.bind(arrays).enqueue(device.stream)
    errors = [
        differences(fetch(device, arrays[name]).astype(np.float32), tensor.numpy())
        for name, tensor in case.expected.items()
    ]
    return worst(case.graph, errors)


def closed_loop(
    engines: Mapping[str, DeviceEngine],
    records: Mapping[str, GraphRecord],
    device: Device,
    net: JointNet,
    defaults: Defaults,
) -> ClosedLoop:
    """Masks of the shipped clip, as `parity.closed_loop` compares them."""
    settings = Settings.resolve(defaults, memory=min(2, defaults.memory), interval=2)
    clock = StageClock()
    network = EngineNetwork(engines, records, device, settings, clock)
    tested = Segmenter(HostFollower(network, geometry_of(net.config), settings, clock))
    return compare_loops(tested, reference_segmenter(net, settings))


def measure_engines(
    engines: Mapping[str, DeviceEngine],
    records: Mapping[str, GraphRecord],
    device: Device,
    net: JointNet,
    defaults: Defaults,
) -> Parity:
    """Graphs and closed loop, for the manifest.

    Args:
        engines: all graphs of a bundle.
        records: of the graphs.
        device: where the engines run.
        net: what they were built from.
        defaults: the bundle's; the memory is the engines' capacity.
    """
    worst: dict[str, GraphParity] = {}
    objects = 2 if all(engine.max_batch != 1 for engine in engines.values()) else 1
    with torch.inference_mode(), device.current():
        for case in filter(lambda case: case.judged, cases(net, defaults.memory, objects)):
            found = graph_error(engines[case.graph], device, case)
            if case.graph not in worst or not found.rel_l2 <= worst[case.graph].rel_l2:
                worst[case.graph] = found
    return Parity(graphs=tuple(worst.values()), closed_loop=closed_loop(engines, records, device, net, defaults))


def why_not_here(manifest: Manifest) -> str | None:
    """Why TensorRT engines cannot be run where they were built; None if they can."""
    assert manifest.tensorrt is not None and manifest.backend in ("tensorrt", "tensorrt-rtx")
    library = query_tensorrt("tensorrt" if manifest.backend == "tensorrt" else "tensorrt-rtx")
    try:
        check_engines(manifest.tensorrt, library, query_cuda_driver())
        _gpu_device()
    except (DependencyError, DeviceError) as error:
        return str(error)
    return None


def _gpu_device() -> Device:
    """The first GPU, through torch where it can use it, else through pycuda."""
    return TorchDevice(torch.device("cuda")) if torch.cuda.is_available() else PycudaDevice("cuda")


def measure_on_gpu(bundle: Bundle, net: JointNet) -> Parity:
    """The gate of a bundle of TensorRT engines on the first GPU."""
    device, manifest = _gpu_device(), bundle.manifest
    with device.current():
        engines = load_engines(bundle, Settings.resolve(manifest.defaults), device="cuda", allocate=device.zeros)
    return measure_engines(engines, manifest.graphs, device, net, manifest.defaults)
