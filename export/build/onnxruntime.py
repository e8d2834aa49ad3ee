"""`jointrt build --backend onnxruntime`: a bundle -> ONNX graphs of fixed memory, typed, for ONNX Runtime on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import cast

from ...runtime.bundle import WEIGHTS, Bundle
from ..checkpoint.network import bundle_network
from ..graphs.fixed_memory import gpu_graphs
from .bundle import check_fixed, check_source, derived_manifest, replaced_folder, write_manifest
from .onnx_graph import export_graph
from .tensorrt import Precision, write_typed


def build_onnx_bundle(
    bundle: Bundle,
    out: Path,
    *,
    precision: str,
    memory: int,
    weights: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> Bundle:
    """All graphs, put in their place with a manifest; nothing is left behind by a build that fails.

    Args:
        bundle: an ONNX bundle.
        out: the new bundle's folder.
        precision: "fp16", with fp32 islands, or "fp32".
        memory: slots of the memory.
        weights: the weights it was made from, where the bundle does not hold them.
        overwrite: replace an existing bundle.
        progress: told what is being done, and how many graphs of how many are finished.

    Raises:
        BundleError: the bundle is no ONNX bundle, holds no weights, or a graph cannot be typed.
        OutputError: `out` cannot be written.
        SettingsError: precision or memory is out of range.
    """
    check_fixed(precision, memory)
    check_source(bundle, out)
    graphs = gpu_graphs(bundle_network(bundle, weights), memory)
    records, chosen = {}, cast(Precision, precision)
    with replaced_folder(out, overwrite) as folder:
        for done, graph in enumerate(graphs):
            progress(f"tracing {graph.name}", done, len(graphs))
            traced = export_graph(graph, folder)
            path = folder / traced.file
            records[graph.name] = write_typed(path, traced, chosen, path).model_copy(update={"file": path.name})
        progress("done", len(graphs), len(graphs))
        own = bundle.path(WEIGHTS)
        if own.is_file():
            shutil.copyfile(own, folder / WEIGHTS)
        changes = {"graphs": records, "backend": "onnxruntime-cuda", "precision": precision, "quantization": None}
        defaults = bundle.manifest.defaults.model_copy(update={"memory": memory})
        write_manifest(folder, derived_manifest(bundle.manifest, folder, defaults=defaults, **changes))
    return Bundle.open(out)
