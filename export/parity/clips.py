"""Clips with a first mask, and what a running bundle feeds to its graphs on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ...errors import MaskError
from ...runtime.cpu.network import OnnxNetwork
from ...runtime.cpu.onnxruntime_engine import Buffer, Runnable
from ...runtime.segmenter import Segmenter
from ...runtime.tracking.follower import HostFollower
from ...runtime.video.masks import GivenMasks
from ...runtime.video.sources import Source, open_source

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Clip:
    """A clip and the mask of its first frame, both checked."""

    source: Source
    masks: GivenMasks

    @classmethod
    def open(cls, path: Path) -> Self:
        """A video file or a folder of images, with its mask beside it: NAME.png for NAME.mp4 or the folder NAME.

        Raises:
            MaskError: the mask is missing or cannot be used.
            VideoError: the clip cannot be read.
        """
        source = open_source(path)
        mask = path.with_suffix(".png")
        if not mask.is_file():
            raise MaskError(f"{mask} does not exist: expected the mask of the first frame beside {path}")
        return cls(source, GivenMasks.read(mask, source))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a graph: its inputs and outputs by port."""

    inputs: Arrays
    outputs: Arrays


class _Recorder:
    """Copies what an engine is called with."""

    def __init__(self, engine: Runnable, calls: list[Call], limit: int) -> None:
        self._engine = engine
        self._calls = calls
        self._limit = limit

    def run(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> None:
        """Run, and keep copies while there is room."""
        if len(self._calls) >= self._limit:
            self._engine.run(inputs, outputs)
            return
        before = {name: buffer.array.copy() for name, buffer in inputs.items()}
        self._engine.run(inputs, outputs)
        self._calls.append(Call(before, {name: buffer.array.copy() for name, buffer in outputs.items()}))


def record_calls(
    bundle: Path, clips: Iterable[Clip], graphs: Iterable[str], *, frames: int, per_clip: int
) -> dict[str, list[Call]]:
    """Real calls of some graphs, from closed loops over clips.

    Args:
        bundle: folder of an ONNX bundle.
        graphs: their names; those that no object needs, as each reads for itself, are passed over.
        frames: of each clip, spread evenly over it where its length is known.
        per_clip: calls to keep of each graph in each clip.
    """
    segmenter = Segmenter.load(bundle, interval=2)
    assert isinstance(segmenter.tracking, HostFollower)
    network = segmenter.tracking.network
    assert isinstance(network, OnnxNetwork)
    engines = dict(network.engines)
    calls: dict[str, list[Call]] = {name: [] for name in graphs if name in engines}
    for clip in clips:
        segmenter.reset()
        for name, kept in calls.items():
            network.engines[name] = _Recorder(engines[name], kept, len(kept) + per_clip)
        every = max(1, ((clip.source.count or frames) - clip.masks.begin) // frames)
        end = clip.masks.begin + frames * every
        for frame in clip.source.frames(clip.masks.begin, end, every):
            segmenter.step(frame.image, clip.masks.at(frame.index))
    return calls
