"""From a graph module to an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor

from ...runtime.manifest import GraphRecord
from ..graphs.graph import Graph

OPSET = 20
"""The newest opset that ONNX Runtime, TensorRT and TensorRT-RTX all take as it is written."""


def sample_inputs(graph: Graph, batch: int = 2, frames: int = 3) -> dict[str, Tensor]:
    """Random inputs of a graph's shapes; dynamic axes are `batch` objects, `frames` frames, two objects' values."""
    sizes = {"B": batch, "N": frames, "V": 2 * graph.config.encoding_channels}
    generator = torch.Generator().manual_seed(0)
    return {
        port.name: torch.rand([sizes[n] if isinstance(n, str) else n for n in port.shape], generator=generator)
        for port in graph.inputs()
    }


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
            graph.eval(),
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
