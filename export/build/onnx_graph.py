"""From a graph module to an ONNX file."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ...runtime.manifest import GraphRecord
from ..graphs.graph import Graph

OPSET = 20
"""The newest opset that ONNX Runtime, TensorRT and TensorRT-RTX all take as it is written."""


def sample_inputs(graph: Graph, batch: int = 2, frames: int = 3) -> dict[str, Tensor]:
    """Random inputs of a graph's shapes; dynamic axes are `batch` objects, `frames` frames, several objects' values."""
    sizes = {"B": batch, "N": frames, "V": 32}
    generator = torch.Generator().manual_seed(0)
    return {
        port.name: torch.rand([sizes[n] if isinstance(n, str) else n for n in port.shape], generator=generator)
        for port in graph.inputs()
    }


class _Reads(TorchFunctionMode):
    """Notes which tensors the functions in its block read."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call it, and keep its arguments in mind."""
        del types
        self.ids.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return function(*args, **(kwargs or {}))


def without_idle_weights(graph: Graph, inputs: Sequence[Tensor]) -> Graph:
    """A copy of a graph with those of the network's weights that it reads, shared with it: each costs the tracer time.

    Args:
        graph: in eval mode.
        inputs: of its forward pass, which is run once.
    """
    shared = {id(tensor): tensor for tensor in (*graph.parameters(), *graph.buffers())}
    with torch.inference_mode(), _Reads() as reads:
        graph(*inputs)
    bare = copy.deepcopy(graph, dict(shared))
    for module in bare.modules():
        for held in (module._parameters, module._buffers):
            for name in [n for n, tensor in held.items() if tensor is not None and id(tensor) not in reads.ids]:
                held[name] = None
    return bare


def export_graph(graph: Graph, folder: Path) -> GraphRecord:
    """Trace a graph into `folder`/NAME.onnx, batch and memory frames dynamic.

    Returns:
        Its record for the manifest.
    """
    path = folder / f"{graph.name}.onnx"
    inputs = sample_inputs(graph)
    dynamic = {
        port.name: {axis: torch.export.Dim.DYNAMIC for axis, n in enumerate(port.shape) if isinstance(n, str)}
        for port in graph.inputs()
    }
    with _quiet():
        program = torch.onnx.export(
            without_idle_weights(graph.eval(), tuple(inputs.values())),
            tuple(inputs.values()),
            input_names=[port.name for port in graph.inputs()],
            output_names=[port.name for port in graph.outputs()],
            # forward's own names order the arguments; the ports' names may differ from them.
            dynamic_shapes=tuple(dynamic.values()),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    # The tracer notes where each node came from, with the paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    program.save(str(path), external_data=False)
    return GraphRecord(
        file=path.name,
        inputs=tuple(graph.inputs()),
        outputs=tuple(graph.outputs()),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports its progress and absent optional libraries; neither concerns the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
