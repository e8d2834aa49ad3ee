"""Weights that a click network starts from."""

from __future__ import annotations

from pathlib import Path

from ...errors import WeightsError
from ...model.clicks import ClickNet
from ..files import read_weights

_TRUNK = "backbone."


def init_click_weights(net: ClickNet, path: Path) -> None:
    """Fill the network from a click network's weights, or its trunk from those of any network with the same trunk.

    Raises:
        WeightsError: the file is missing, damaged, or holds neither.
    """
    tensors = read_weights(path)
    shapes = {n: t.shape for n, t in net.state_dict().items() if not n.endswith("num_batches_tracked")}
    trunk = {name: shape for name, shape in shapes.items() if name.startswith(_TRUNK)}
    wanted = shapes if set(shapes) <= set(tensors) else trunk
    odd = [name for name, shape in wanted.items() if name not in tensors or tensors[name].shape != shape]
    if odd:
        raise WeightsError(
            f"{path} holds neither a click network nor one with the trunk of `lite`: {len(odd)} tensors are missing or "
            f"misshapen, such as {odd[0]}"
        )
    net.load_state_dict({name: tensors[name].float() for name in wanted}, strict=False)
