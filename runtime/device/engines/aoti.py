"""Graphs that AOTInductor compiled ahead, as `DeviceEngine`s: PyTorch's functions as machine code, nothing to compile.

A graph has two packages: for one object, and for any number of more. They are machine code of the device that they were
built on, and are run as such: load what you built, or what comes from somebody whose programs you would run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import BundleError
from ...bundle import Bundle
from ...manifest import AotiRecord, GraphRecord, Port
from ...settings import Settings
from .functions import BoundFunction, tensor_of
from .protocol import UNUSED, BoundGraph, DeviceArray, check_arrays

Function = Callable[..., Any]


def one_object(file: str) -> str:
    """Name of a graph's package for one object, from that of its package for several."""
    return f"{Path(file).stem}.one.pt2"


def processor(device: str) -> str:
    """What packages are built for: "sm90" of a GPU, a CPU's instructions as torch names them, such as "AVX512"."""
    if device == "cpu":
        return torch.backends.cpu.get_cpu_capability()
    return "sm{}{}".format(*torch.cuda.get_device_capability(device))


class AotiEngine:
    """One graph; see `protocol.DeviceEngine`. Computes on torch's current stream.

    Args:
        graph: its name.
        record: its ports.
        one, several: its functions for one object, and for more; a memory update renews its banks in place.
        max_batch: largest number of objects in one call.
    """

    capturable = True
    in_place = True

    def __init__(self, graph: str, record: GraphRecord, one: Function, several: Function, max_batch: int) -> None:
        self.graph, self.record, self.max_batch = graph, record, max_batch
        self._one, self._several = one, several
        self.ports: Mapping[str, Port] = {port.name: port for port in (*record.inputs, *record.outputs)}

    def bind(self, arrays: Mapping[str, DeviceArray]) -> BoundGraph:
        """Arrays whose owners are torch tensors."""
        check_arrays(self.graph, self.ports.values(), arrays)
        tensors = {name: tensor_of(name, array) for name, array in arrays.items()}
        inputs = [tensors[port.name] for port in self.record.inputs]
        outputs = [tensors[port.name] for port in self.record.outputs]
        function = self._one if inputs[0].shape[0] == 1 else self._several
        # A memory update renews its banks, which come first, where they lie.
        banks = len(outputs) - 1 if self.graph == "memory_update" else 0
        if banks and outputs[0].data_ptr() != inputs[0].data_ptr():
            function = _copied_first(function, inputs[:banks])
        return BoundFunction(function, [*outputs[:banks], *inputs[banks:]], outputs[banks:])


def _copied_first(function: Function, banks: list[Tensor]) -> Function:
    """A function that renews its first arguments, which are made those of `banks` before."""

    def call(*values: Tensor) -> Any:
        for target, bank in zip(values, banks, strict=False):
            target.copy_(bank)
        return function(*values)

    return call


def check_built(record: AotiRecord, device: str, where: str) -> None:
    """Refuse packages of another torch or another processor.

    Raises:
        BundleError: they are.
    """
    here = AotiRecord(
        torch=torch.__version__, device=device.partition(":")[0], processor=processor(device), objects=record.objects
    )
    if here != record:
        raise BundleError(
            f"{where} was built by torch {record.torch} for {record.device}, {record.processor}; here are torch "
            f"{here.torch} and {here.device}, {here.processor}: build it here with `jointrt build ONNX_BUNDLE "
            f"--backend aoti --device {here.device}`"
        )


def load_engines(bundle: Bundle, settings: Settings, *, device: str) -> dict[str, AotiEngine]:
    """The engines that the branches need, by graph.

    Args:
        bundle: of AOTInductor's packages.
        settings: branches.
        device: "cuda", "cuda:1", ..., "cpu".

    Raises:
        BundleError: it holds none, those of another machine, or damaged ones.
    """
    manifest = bundle.manifest
    if manifest.aoti is None:
        raise BundleError(f"{bundle.folder} holds {manifest.backend} graphs: expected those of build --backend aoti")
    check_built(manifest.aoti, device, str(bundle.folder))
    ordinal = -1 if device == "cpu" else torch.device(device).index or 0

    def load(file: str) -> Function:
        path = bundle.path(file)
        try:
            # One caller at a time, so that nothing is asked of the device that a capture forbids.
            loaded: Function = torch._inductor.aoti_load_package(
                str(path), run_single_threaded=True, device_index=ordinal
            )
        except RuntimeError as error:
            raise BundleError(f"{path} does not load: {str(error)[:200]}: build it again") from None
        return loaded

    return {
        name: AotiEngine(name, record, load(one_object(record.file)), load(record.file), manifest.aoti.objects)
        for name, record in manifest.graphs.items()
        if name not in UNUSED[settings.branches]
    }
