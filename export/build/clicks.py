"""`jointrt export` of a click network's weights: a bundle of two graphs, by way of the parity gate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import BundleError, SettingsError
from ...runtime.bundle import CLICK_FORMAT
from ...runtime.clicks.bundle import ClickBundle, ClickManifest
from ...runtime.manifest import Parity
from ..checkpoint.weights import load_click_network
from ..graphs.clicks import CLICK_GRAPHS
from ..parity.clicks import measure_clicks, with_side
from .bundle import check_crop, file_digests, replaced_folder, tool_versions, write_judged
from .half_storage import rounded, store_half
from .onnx_graph import OPSET, export_graph


def export_click_bundle(
    weights: Path,
    out: Path,
    *,
    crop: tuple[int, int] | None = None,
    half_weights: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> ClickBundle:
    """Trace both graphs, write the manifest, pass the gate, and put the bundle in its place.

    Args:
        weights: a weights file of `jointrt train --task clicks`; it is not kept in the bundle.
        out: the bundle's folder.
        crop: (height, width) of the square crop; the model's own if None.
        half_weights: round the weights to fp16 and store them so; computing stays fp32.
        overwrite: replace an existing bundle.
        progress: told what is being done.

    Raises:
        SettingsError: the crop is not square or out of its range.
        WeightsError: the weights cannot be used.
        BundleError: the gate failed; nothing is left behind.
        OutputError: `out` cannot be written.
    """
    net, provenance = load_click_network(weights)
    if half_weights:
        net = rounded(net)
    if crop is not None:
        height, width = check_crop(crop)
        if height != width:
            raise SettingsError(f"crop is {height}x{width}: expected a square one, such as 320x320")
        net = with_side(net, height)
    with replaced_folder(out, overwrite) as folder:
        graphs = {}
        for kind in CLICK_GRAPHS:
            progress(f"tracing {kind.name}")
            graphs[kind.name] = export_graph(kind(net), folder)
            if half_weights:
                store_half(folder / graphs[kind.name].file)
        manifest = ClickManifest(
            format=CLICK_FORMAT,
            version=1,
            model=net.config.to_dict(),
            crop=net.config.crop,
            weights=provenance,
            half_weights=half_weights,
            graphs=graphs,
            files=file_digests(folder),
            opset=OPSET,
            tools=tool_versions(),
            parity=None,
        )
        progress("comparing with the PyTorch network")
        write_judged(folder, manifest, lambda: measure_clicks(ClickBundle.open(folder), net))
    return ClickBundle.open(out)


def verify_click_bundle(bundle: ClickBundle, weights: Path | None) -> Parity:
    """Compare a bundle with the PyTorch network again, on this machine.

    Raises:
        BundleError: the weights are not those that it was made from.
    """
    if weights is None:
        raise BundleError(f"{bundle.folder} holds no weights: give those it was made from with --weights W.safetensors")
    net, provenance = load_click_network(weights)
    if provenance.sha256 != bundle.manifest.weights.sha256:
        raise BundleError(
            f"{weights} has sha256 {provenance.sha256[:12]}..., {bundle.folder} was made from "
            f"{bundle.manifest.weights.sha256[:12]}...: give the weights it was made from with --weights"
        )
    net = rounded(net) if bundle.manifest.half_weights else net
    return measure_clicks(bundle, with_side(net, bundle.manifest.crop))
