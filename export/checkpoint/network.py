"""The PyTorch network that a bundle was made from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ...errors import BundleError
from ...model.network import JointNet
from ...runtime.bundle import WEIGHTS, Bundle
from .weights import load_network


def with_crop(net: JointNet, crop: tuple[int, int]) -> JointNet:
    """The same weights for another crop size."""
    other = JointNet(dataclasses.replace(net.config, crop_size=crop))
    other.load_state_dict(net.state_dict())
    return other.eval()


def bundle_network(bundle: Bundle, weights: Path | None = None) -> JointNet:
    """The PyTorch network that a bundle was made from: from its own weights, or from a given file.

    Raises:
        BundleError: the bundle holds no weights and none are given, or they are others.
    """
    path = bundle.path(WEIGHTS) if weights is None else weights
    if weights is None and not path.is_file():
        raise BundleError(
            f"{bundle.folder} holds no {WEIGHTS}: give those it was made from with --weights W.safetensors"
        )
    net, provenance = load_network(path)
    if provenance.sha256 != bundle.manifest.weights.sha256:
        raise BundleError(
            f"{path} has sha256 {provenance.sha256[:12]}..., {bundle.folder} was made from "
            f"{bundle.manifest.weights.sha256[:12]}...: give the weights it was made from with --weights"
        )
    return with_crop(net, bundle.manifest.geometry.crop_size)
