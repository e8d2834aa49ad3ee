"""`jointrt import-checkpoint`: a released checkpoint -> a weights file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from ...errors import OutputError, WeightsError
from ...files import write_whole
from ...model.config import ModelConfig
from ...model.network import JointNet
from ...runtime.bundle import sha256_of
from .stored_tensor import StoredTensor
from .torch_file import load_checkpoint
from .weights import FORMAT, check_tensors, expected_shapes

RELEASED_PREFIXES: tuple[tuple[str, str], ...] = (
    ("feature_extractor.", "backbone."),
    ("transformer.feature_adjustor.0.", "adjust_tra.0."),
    ("target_model.feature_extractor.0.", "adjust_ind.0."),
    ("target_model.filter_optimizer.residual_module.filter_reg", "target_model.filter_reg"),
    ("transformer.encoder.self_attn.WK.", "transformer.self_attention.W_K."),
    ("transformer.decoder.cross_attn.WK.", "transformer.cross_attention.W_K."),
    ("label_encoder.conv_block.0.", "label_encoder.stem.0."),
    ("label_encoder.res1_tm.", "label_encoder.tower_ind.0."),
    ("label_encoder.res2_tm.", "label_encoder.tower_ind.1."),
    ("label_encoder.res1_tr.", "label_encoder.tower_tra.0."),
    ("label_encoder.res2_tr.", "label_encoder.tower_tra.1."),
    ("label_encoder.label_pred_tm.0.", "label_encoder.head_E_ind.0."),
    ("label_encoder.samp_w_pred.", "label_encoder.head_W."),
    ("label_encoder.label_pred_tr.0.", "label_encoder.head_E_tra.0."),
    ("decoder.", "decoder."),
)
"""Prefixes of the released state dict and of ours."""

_SHARED = ("transformer.decoder.self_attn.", "transformer.encoder.self_attn.")
"""One module that the released state dict lists twice."""


_WITHOUT_NAMES: dict[type, str] = {list: "a list", tuple: "a tuple", str: "a text", StoredTensor: "one tensor"}


def from_released(name: str) -> str | None:
    """Our name of a released tensor; None for what the forward pass does not use.

    The value projections W_V exist in the released weights but no attention applies them; batch counters matter to
    training only; the self-attention that encoder and decoder share is taken once.
    """
    if ".WV." in name or name.endswith("num_batches_tracked") or name.startswith(_SHARED[0]):
        return None
    for released, ours in RELEASED_PREFIXES:
        if name.startswith(released):
            return ours + name.removeprefix(released)
    return name


def to_released(name: str) -> str:
    """The released name of one of our tensors."""
    for released, ours in RELEASED_PREFIXES:
        if name.startswith(ours):
            return released + name.removeprefix(ours)
    return name


def find_state_dict(content: Any, source: Path) -> dict[str, StoredTensor]:
    """The network's tensors within a checkpoint: under `net`, `state_dict` or `model`, or the whole of it.

    Raises:
        WeightsError: there are none.
    """
    candidates = [content]
    if isinstance(content, dict):
        candidates = [content[key] for key in ("net", "state_dict", "model") if key in content] + candidates
    for candidate in candidates:
        if isinstance(candidate, dict):
            tensors = {k: v for k, v in candidate.items() if isinstance(v, StoredTensor)}
            if tensors:
                wrapped = all(name.startswith("module.") for name in tensors)
                return {name.removeprefix("module.") if wrapped else name: v for name, v in tensors.items()}
    found = (
        ", ".join(list(content)[:6]) if isinstance(content, dict) else _WITHOUT_NAMES.get(type(content), "an object")
    )
    raise WeightsError(f"{source} holds no network: found {found[:200]}; expected a state dict, or one under 'net'")


def import_checkpoint(source: Path, destination: Path, *, overwrite: bool = False) -> int:
    """Write a weights file from a released `.pth.tar` or a plain state dict; nothing in the source is run.

    Returns:
        The number of tensors written.

    Raises:
        WeightsError: the source is truncated, foreign, or not this network's; names what is missing or unexpected.
        OutputError: the destination exists or cannot be written.
    """
    if destination.suffix != ".safetensors":
        raise OutputError(f"{destination} should end in .safetensors: that is the format of weights files")
    if destination.exists() and not overwrite:
        raise OutputError(f"{destination} exists: choose another name, or give --overwrite")
    checkpoint = load_checkpoint(source)
    config = ModelConfig.named("paper")
    expected = expected_shapes(JointNet(config))
    released = _network_tensors(find_state_dict(checkpoint.content, source), expected, source)
    arrays = checkpoint.arrays(released)
    for second in [name for name in released if name.startswith(_SHARED[0])]:
        first = second.replace(*_SHARED)
        if not np.array_equal(arrays[first], arrays[second], equal_nan=True):
            raise WeightsError(f"{source}: {first} and {second} differ, but encoder and decoder share that module")
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config.to_dict()),
        "source_name": source.name,
        "source_sha256": sha256_of(source),
    }
    tensors = {name: np.asarray(arrays[to_released(name)], np.float32, order="C") for name in expected}
    write_weights(tensors, destination, metadata)
    return len(expected)


def _network_tensors(
    released: dict[str, StoredTensor], expected: dict[str, tuple[int, ...]], source: Path
) -> dict[str, StoredTensor]:
    """The tensors that the network takes, and the shared module's second listing, by their released names.

    A state dict of `JointNet` itself, under our names, is taken as well.
    """
    kept = {to_released(name): tensor for name, tensor in released.items() if from_released(name) is not None}
    shapes = {to_released(name): shape for name, shape in expected.items()}
    check_tensors({name: tensor.shape for name, tensor in kept.items()}, shapes, str(source))
    for name in released:
        first = name.replace(*_SHARED)
        if name.startswith(_SHARED[0]) and first in kept:
            check_tensors({name: released[name].shape}, {name: shapes[first]}, str(source))
            kept[name] = released[name]
    for name, tensor in kept.items():
        if not tensor.floating:
            raise WeightsError(f"{source}: {name} is a {tensor.storage.kind}, expected floating-point numbers")
    return kept


def write_weights(tensors: dict[str, NDArray[np.float32]], destination: Path, metadata: dict[str, str]) -> None:
    """A safetensors file, written aside and renamed.

    Raises:
        OutputError: it cannot be written.
    """

    def write(file: Path) -> None:
        save_file(tensors, file, metadata)
        file.chmod(0o644)

    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        write_whole(destination, write)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{destination} cannot be written ({getattr(error, 'strerror', None) or error})") from None
