"""What a frame takes before and after the engines: functions that write into given tensors, compiled if asked for.

Some 320 operators on little data, which a GPU is likely to spend more time launching than computing. Compiled, they
are a tenth of that. Windows stay those of the host to the bit: divisions round as IEEE 754 says, and nothing is fused
into a multiplication and an addition with one rounding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ...errors import OutputError
from ...files import cache_folder
from ..manifest import Geometry, Windows
from ..settings import ScoreResize
from .geometry import (
    DeviceWindow,
    cut_images,
    fixed_windows,
    paste_logits,
    search_windows,
    soft_aggregation,
    update_state,
)

_MOST_SHAPES = 256
"""Numbers of objects, sizes of frames and devices for which one process compiles the same function."""


def options() -> dict[str, Any]:
    """Inductor's settings under which compiled functions round as they do without it.

    Triton is told by the second one alone not to fuse multiplications with additions: what Inductor passes to it goes
    before Triton's own environment variable.
    """
    same: dict[str, Any] = {"eager_numerics.division_rounding": True, "emulate_precision_casts": True}
    # A GPU's many small kernels are compiled by several processes; a CPU's few need none.
    return same if torch.cuda.is_available() else {**same, "compile_threads": 1}


def compiled(function: Callable[..., Any], *, dynamic: bool | None = False) -> Callable[..., Any]:
    """The function through Inductor, as one graph, rounding as it does without; compiled at its first call.

    With `dynamic` None it is compiled for the first sizes, and then for any. What is compiled is kept in the user's
    cache, or where `TORCHINDUCTOR_CACHE_DIR` says.
    """
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_SHAPES)
    if "TORCHINDUCTOR_CACHE_DIR" not in os.environ:
        # Where the user has no such folder, torch's own place in the temporary files will do.
        with suppress(OutputError, ModuleNotFoundError):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache_folder("inductor"))
    return torch.compile(function, fullgraph=True, dynamic=dynamic, options=options())


def before_engines(
    frames: Tensor,
    video_of: Tensor,
    probability: Tensor,
    pos: Tensor,
    scale: Tensor,
    base_size: Tensor,
    windows: DeviceWindow,
    crop: Tensor,
    geometry: Geometry,
    min_area: float,
    rule: Windows,
) -> None:
    """From the last merged maps to the crops: `pos`, `scale`, `windows` and `crop` are written."""
    size = (frames.shape[1], frames.shape[2])
    moved, scaled = update_state(probability, pos, scale, base_size, min_area)
    crop_size, stride, filter_size = geometry.crop_size, geometry.stride, geometry.filter_size
    found = search_windows(moved, scaled, size, crop_size, stride, filter_size, rule)
    pos.copy_(moved)
    scale.copy_(scaled)
    crop.copy_(cut_images(frames, video_of, found, geometry.crop_size))
    for target, value in zip(windows, found, strict=True):
        target.copy_(value)


def cut_whole_frames(
    frames: Tensor, windows: DeviceWindow, crop: Tensor, geometry: Geometry, whole: Sequence[int]
) -> None:
    """With one window for all (see `geometry.fixed_windows`): `windows`, and a `crop` per video, are written."""
    for target, value in zip(windows, fixed_windows(whole, windows.start), strict=True):
        target.copy_(value)
    videos = torch.arange(frames.shape[0], device=frames.device)
    crop.copy_(cut_images(frames, videos, fixed_windows(whole, crop[:, 0, 0, :2]), geometry.crop_size))


def after_engines(logits: Tensor, windows: DeviceWindow, scores: Tensor, resize: ScoreResize) -> None:
    """Logits of crops to scores in the frame, written to `scores` (B, H, W)."""
    scores.copy_(paste_logits(logits, windows, (scores.shape[1], scores.shape[2]), resize))


def merge(
    scores: Tensor, members: Tensor, place: Tensor, id_table: Tensor, probability: Tensor, labels: Tensor
) -> None:
    """Soft aggregation of every video's objects; videos with fewer are filled up.

    Args:
        scores: (B + 1, H, W), the last those of an object that is not there.
        members: (V, K) which of them are a video's.
        place: (B,) where an object's map is among all videos' merged ones.
        id_table: (V, K + 1) uint8, ids of background and objects.
        probability: (B, H, W), written.
        labels: (V, H, W) uint8, written.
    """
    merged = soft_aggregation(scores.index_select(0, members.flatten()).unflatten(0, members.shape))
    probability.copy_(merged.flatten(0, 1).index_select(0, place))
    winners = merged.argmax(1)
    labels.copy_(id_table.gather(1, winners.flatten(1)).view_as(winners))
