"""`jointrt build --backend aoti`: a bundle -> PyTorch's graphs, compiled ahead for the device at hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ...errors import BundleError, DeviceError, SettingsError
from ...runtime.backends import Name, choose
from ...runtime.bundle import Bundle
from ...runtime.device.engines.aoti import one_object, processor
from ...runtime.device.engines.functions import arithmetic, with_channels_last
from ...runtime.device.engines.torch import Precision, TorchEngine, torch_engines
from ...runtime.device.frame_work import options
from ...runtime.device.replay import TORCH_TYPES
from ...runtime.manifest import AotiRecord, GraphRecord, Parity
from ..checkpoint.network import bundle_network
from ..graphs.fixed_memory import MemoryUpdateGraph
from ..parity.device import measure_on_device
from .bundle import check_fixed, check_source, derived_manifest, replaced_folder, write_judged


class _Call(nn.Module):
    """A graph with its arguments as one tuple, so that all may be given one dynamic axis.

    A memory update renews its banks in place and gives the keys alone.
    """

    def __init__(self, engine: TorchEngine) -> None:
        super().__init__()
        self.part = engine.graph

    def forward(self, *values: Tensor) -> Any:
        """What the graph takes, in its order."""
        return self.part.renew(*values) if isinstance(self.part, MemoryUpdateGraph) else self.part(*values)


def build_aoti_bundle(
    bundle: Bundle,
    out: Path,
    *,
    precision: str,
    memory: int,
    max_objects: int,
    device: str,
    weights: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Bundle:
    """All graphs, compared with the PyTorch network and put in their place; a build that fails leaves nothing behind.

    Args:
        bundle: an ONNX bundle.
        out: the new bundle's folder.
        precision: "fp16", with fp32 islands, or "fp32".
        memory: slots of the memory.
        max_objects: largest number of objects in one call.
        device: "cuda" or "cpu", where the graphs are built and will run.
        weights: the weights it was made from, where the bundle does not hold them.
        overwrite: replace an existing bundle.
        progress: told what is being done, and how many packages of how many are finished.

    Raises:
        BundleError: the bundle is no ONNX bundle, holds no weights, a graph cannot be compiled, or the gate failed.
        DeviceError: there is no such device.
        OutputError: `out` cannot be written.
        SettingsError: precision, memory or the number of objects is out of range.
    """
    check_fixed(precision, memory)
    if not 2 <= max_objects <= 255:
        raise SettingsError(f"max-objects is {max_objects}: expected 2 to 255")
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise DeviceError(f"device {device!r} cannot be built for: expected 'cpu', or 'cuda' where torch has a GPU")
    check_source(bundle, out)
    net = bundle_network(bundle, weights)
    engines = torch_engines(net, memory, cast(Precision, precision), device)
    records = {}
    with replaced_folder(out, overwrite) as folder:
        for done, (name, engine) in enumerate(engines.items()):
            assert isinstance(engine, TorchEngine)
            file = f"{name}.pt2"
            progress(f"compiling {name} for one object", 2 * done, 2 * len(engines))
            compile_graph(engine, folder / one_object(file), device, None)
            progress(f"compiling {name} for several", 2 * done + 1, 2 * len(engines))
            compile_graph(engine, folder / file, device, max_objects)
            inputs, outputs = (
                tuple(engine.ports[port.name] for port in ports)
                for ports in (engine.graph.inputs(), engine.graph.outputs())
            )
            records[name] = GraphRecord(file=file, inputs=inputs, outputs=outputs)
        progress("comparing with the PyTorch network", 2 * len(engines), 2 * len(engines))
        changes = {"memory": memory, "max_objects": max_objects}
        built = AotiRecord(torch=torch.__version__, device=device, processor=processor(device), objects=max_objects)
        manifest = derived_manifest(
            bundle.manifest,
            folder,
            defaults=bundle.manifest.defaults.model_copy(update=changes),
            graphs=records,
            backend="aoti",
            precision=precision,
            quantization=None,
            aoti=built,
        )

        def judge() -> Parity:
            opened = Bundle.open(folder)
            return measure_on_device(opened, net, choose(opened, Name.AOTI, device=device))

        write_judged(folder, manifest, judge, precision)
    return Bundle.open(out)


def traced(engine: TorchEngine, device: str, most: int | None = None) -> tuple[ExportedProgram, tuple[Tensor, ...]]:
    """A graph as AOTInductor takes it, for one object or for two to `most`, and inputs of its shapes."""
    batch = 1 if most is None else 2
    values = []
    for port in engine.graph.inputs():
        shape = [batch if isinstance(n, str) else n for n in port.shape]
        zeros = torch.zeros(shape, dtype=TORCH_TYPES[engine.ports[port.name].dtype], device=device)
        values.append(with_channels_last(zeros) if port.name.startswith("layer") else zeros)
    objects = None if most is None else torch.export.Dim("objects", min=2, max=max(most, 3))
    axes = tuple(
        {axis: objects for axis, n in enumerate(port.shape) if isinstance(n, str)} for port in engine.graph.inputs()
    )
    with torch.no_grad():
        dynamic = None if objects is None else {"values": axes}
        return torch.export.export(_Call(engine), tuple(values), dynamic_shapes=dynamic), tuple(values)


def compile_graph(engine: TorchEngine, path: Path, device: str, most: int | None) -> None:
    """One package of a graph: for one object, or for two to `most`.

    Raises:
        BundleError: the compiler refuses it.
    """
    try:
        with torch.no_grad(), arithmetic(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program, _ = traced(engine, device, most)
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options())
    except Exception as error:
        # Whatever torch's compilers raise, of their many kinds.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise BundleError(f"{path.name}: AOTInductor refuses the graph: {reason}") from error
