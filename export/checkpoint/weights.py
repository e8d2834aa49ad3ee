"""Weights files: safetensors with the model's configuration and the weights' origin in the metadata."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ...errors import WeightsError
from ...model.clicks import TASK, ClickConfig, ClickNet
from ...model.config import ModelConfig
from ...model.network import JointNet
from ...runtime.bundle import sha256_of
from ...runtime.manifest import Weights

FORMAT = "jointrt-weights/1"
Net = TypeVar("Net", bound=nn.Module)


def load_network(path: Path) -> tuple[JointNet, Weights]:
    """The network of a weights file, in eval mode, and where its weights came from.

    Raises:
        WeightsError: the file is missing, truncated or foreign, or its tensors do not fit its configuration.
    """
    return _load(path, lambda values: JointNet(ModelConfig.from_dict(values)))


def load_click_network(path: Path) -> tuple[ClickNet, Weights]:
    """The same of a click network's weights file.

    Raises:
        WeightsError: see `load_network`.
    """
    return _load(path, lambda values: ClickNet(ClickConfig.from_dict(values)))


def is_for_clicks(path: Path) -> bool:
    """Whether a weights file is a click network's.

    Raises:
        WeightsError: the file is missing, truncated or foreign.
    """
    metadata, _ = _read(path)
    try:
        return json.loads(metadata["config"]).get("task") == TASK
    except (ValueError, AttributeError):
        return False


def _load(path: Path, make: Callable[[dict[str, Any]], Net]) -> tuple[Net, Weights]:
    metadata, tensors = _read(path)
    try:
        net = make(json.loads(metadata["config"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} has a configuration that this version does not know: {error}") from None
    check_tensors({name: tuple(t.shape) for name, t in tensors.items()}, expected_shapes(net), str(path))
    net.load_state_dict(tensors, strict=False)
    weights = Weights(
        sha256=sha256_of(path),
        source=metadata.get("source_name", path.name),
        source_sha256=metadata.get("source_sha256", ""),
    )
    return net.eval(), weights


def _read(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """A weights file's metadata and tensors."""
    if not path.is_file():
        raise WeightsError(f"no such weights file: {path}; make one with `jointrt import-checkpoint SRC {path.name}`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}): a released checkpoint becomes one with "
            f"`jointrt import-checkpoint {path} W.safetensors`"
        ) from None
    if metadata.get("format") != FORMAT or "config" not in metadata:
        raise WeightsError(
            f"{path} is a safetensors file without jointrt's metadata: expected one made by "
            "`jointrt import-checkpoint` or `jointrt train`"
        )
    return metadata, tensors


def save_half(net: JointNet, path: Path, origin: Weights) -> Weights:
    """Write a network whose weights fp16 holds exactly, in fp16; returns its own record."""
    names = expected_shapes(net)
    tensors = {name: tensor for name, tensor in net.state_dict().items() if name in names}
    halves = {n: t.half() if torch.equal(t.half().float(), t) else t.clone() for n, t in tensors.items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(net.config.to_dict()),
        "source_name": origin.source,
        "source_sha256": origin.sha256,
    }
    save_file(halves, path, metadata)
    path.chmod(0o644)
    return Weights(sha256=sha256_of(path), source=origin.source, source_sha256=origin.sha256)


def expected_shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a weights file; batch counters, which inference ignores, left out."""
    return {
        name: tuple(tensor.shape)
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def check_tensors(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], source: str) -> None:
    """Compare names and shapes.

    Raises:
        WeightsError: listing what is missing, unexpected or misshapen, by name.
    """
    problems = []
    for title, names in (
        ("missing", [n for n in expected if n not in found]),
        ("unexpected", [n for n in found if n not in expected]),
    ):
        if names:
            problems.append(f"{len(names)} {title}: {_shortened(names)}")
    misshapen = [f"{n} {found[n]} instead of {expected[n]}" for n in expected if n in found and found[n] != expected[n]]
    if misshapen:
        problems.append(f"{len(misshapen)} misshapen: {_shortened(misshapen)}")
    if problems:
        raise WeightsError(f"{source} does not hold this network's tensors: {'; '.join(problems)}")


def _shortened(names: list[str], most: int = 20) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
