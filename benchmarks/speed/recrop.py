"""A bundle's network traced for other crop sizes, for the time of a measurement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...errors import BundleError
from ...export.build.bundle import export_bundle
from ...runtime.bundle import WEIGHTS, Bundle


def with_other_crop(
    bundle: Bundle, crop: tuple[int, int], weights: Path | None, folder: Path, progress: Callable[[str], None]
) -> Bundle:
    """Export into `folder`, parity gate included.

    Args:
        crop: (height, width).
        weights: those that the bundle was made from; those in the bundle if None.

    Raises:
        BundleError: there are no weights, or the bundle is not of plain fp32 graphs.
    """
    manifest = bundle.manifest
    if manifest.precision != "fp32" or manifest.backend != "onnx":
        raise BundleError(
            f"{bundle.folder} is {manifest.precision} {manifest.backend}: a sweep of --crop traces the network anew, "
            "in fp32; give the bundle that it was made from"
        )
    path = bundle.path(WEIGHTS) if weights is None else weights
    if not path.is_file():
        raise BundleError(
            f"{path} is not there: a sweep of --crop traces the network anew; give the weights that the bundle was "
            "made from with --weights"
        )
    return export_bundle(
        path, folder, crop=crop, memory=manifest.defaults.memory, interval=manifest.defaults.interval, progress=progress
    )
