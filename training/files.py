"""What a run leaves: checkpoints and weights. Each is written aside and renamed, so that it is always whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import WeightsError
from ..model.clicks import ClickNet
from ..model.network import JointNet

WEIGHTS_FORMAT = "jointrt-weights/1"
CHECKPOINT = "checkpoint.pt"
LAST = "last.safetensors"
BEST = "best.safetensors"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place."""
    aside = path.with_name(f".{path.name}.part")
    write(aside)
    aside.replace(path)


def save_weights(path: Path, net: JointNet | ClickNet, source: str) -> None:
    """A weights file that `jointrt export` reads."""
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {"format": WEIGHTS_FORMAT, "config": json.dumps(net.config.to_dict()), "source_name": source}
    write_whole(path, lambda aside: save_file(tensors, aside, metadata))


def init_weights(net: JointNet, path: Path) -> None:
    """Fill the network from a weights file of all its tensors, or of the trunk's alone (`backbone.*`).

    Raises:
        WeightsError: the file is missing or holds anything else.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}): expected weights to start from"
        ) from None
    wanted = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    trunk = {name for name in wanted if name.startswith("backbone.")}
    if set(tensors) not in (wanted, trunk):
        odd = sorted(set(tensors) ^ wanted)
        raise WeightsError(
            f"{path} holds other tensors than this network or its trunk, {len(odd)} differ: {', '.join(odd[:5])}"
        )
    try:
        net.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit the preset's network: {' '.join(str(error).split())}") from None


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Everything that a run needs to go on."""
    write_whole(path, lambda aside: torch.save(state, aside))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The reverse of `save_checkpoint`; nothing in the file is run.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist: there is nothing to resume; leave --resume out") from None
    except Exception as error:
        raise WeightsError(f"{path} is no whole checkpoint of `jointrt train`: {error}") from None
    return state
