"""Batches of mini-sequences; each is a function of seed and step alone, so that a resumed run sees the same ones."""

from __future__ import annotations

import time
from bisect import bisect
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate
from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ...errors import DatasetError
from ..draw import Draw
from ..material import Film, Material
from ..settings import TrainSettings
from .appearance import compress
from .film_clips import Clip, film_clip
from .frame_store import FrameStore
from .photo_clips import PhotoClips

_ATTEMPTS = 100
_LOOK_ALIKES = 0.6
"""Share of the rivals in films that are the object itself at another time."""


class Batch(NamedTuple):
    """S mini-sequences of N frames."""

    images: Tensor
    """(S, N, 3, H, W), RGB 0..255."""
    masks: Tensor
    """(S, O, N, H, W), 0 or 1."""
    gates: Tensor
    """(S, N - 1, 2); see `MiniSequenceNet.forward`."""


class BatchMaker:
    """Draws clips from the material.

    Attributes:
        size: mini-sequences per batch.
    """

    def __init__(self, material: Material, store: FrameStore, settings: TrainSettings, size: int) -> None:
        self.films = material.films
        self.store = store
        self.settings = settings
        self.size = size
        self._shares = film_shares(material.films, settings)
        self.photos = PhotoClips(material.pictures, store, settings.model.crop_size, settings.frames)

    def batch(self, *seed: int) -> Batch:
        """The batch of this seed.

        Raises:
            DatasetError: no object could be found in many attempts.
        """
        draw = Draw(self.store.device, self.settings.seed, *seed)
        crowded = self.size > 1 and draw.chance(self.settings.crowded)
        objects = 2 if crowded else 1
        clips = [self._clip(draw, objects) for _ in range(self.size // objects)]
        return _stack(clips, self._gates(draw, len(clips)))

    def _gates(self, draw: Draw, sequences: int) -> Tensor:
        gates = torch.ones(sequences, self.settings.frames - 1, 2, device=self.store.device)
        for sequence in gates:
            for frame in sequence:
                if draw.chance(2 * self.settings.branch_dropout):
                    frame[draw.index(2)] = 0.0
        return gates

    def _clip(self, draw: Draw, objects: int) -> Clip:
        pictures = self.photos.pictures
        for _ in range(_ATTEMPTS):
            from_photo = not self.films or (bool(pictures) and draw.chance(self.settings.synthetic))
            clip = self.photos.clip(draw, objects) if from_photo else self._from_films(draw, objects)
            if clip is not None:
                return Clip(compress(clip.images, draw), clip.masks) if draw.chance(self.settings.compressed) else clip
        raise DatasetError(f"{_ATTEMPTS} mini-sequences in a row showed no object: check the masks")

    def _from_films(self, draw: Draw, objects: int) -> Clip | None:
        film = self._film(draw)
        rival = None
        if objects > 1 or draw.chance(self.settings.rivals):
            rival = film if draw.chance(_LOOK_ALIKES) else self._film(draw)
        clip = film_clip(film, self.store, self.settings, draw, rival=rival)
        return None if clip is None or len(clip.masks) < objects else Clip(clip.images, clip.masks[:objects])

    def _film(self, draw: Draw) -> Film:
        return self.films[bisect(self._shares, draw.uniform(0, 1))]


def film_shares(films: tuple[Film, ...], settings: TrainSettings) -> list[float]:
    """How often films are drawn: bounds between them along 0 to 1, one fewer than films."""
    frames: Counter[str] = Counter()
    for film in films:
        frames[film.name] += len(film.frames)
    weights = [
        settings.often.get(film.name, 1.0)
        * (1.0 if film.ids else settings.doubtful)
        * len(film.frames)
        / frames[film.name]
        for film in films
    ]
    return [bound / sum(weights) for bound in accumulate(weights)][:-1]


def validation_batches(films: tuple[Film, ...], store: FrameStore, settings: TrainSettings) -> list[Batch]:
    """A few mini-sequences of each film, not augmented; always the same."""
    batches = []
    for index, film in enumerate(films):
        for number in range(settings.validation_clips):
            clip = film_clip(film, store, settings, Draw(store.device, index, number), augment=False)
            if clip is not None:
                batches.append(_stack([clip], torch.ones(1, settings.frames - 1, 2, device=store.device)))
    return batches


def _stack(clips: list[Clip], gates: Tensor) -> Batch:
    return Batch(torch.stack([c.images for c in clips]), torch.stack([c.masks for c in clips]), gates)


class Prefetcher:
    """Makes the next batches in a thread, on a GPU in a stream of its own, while the network works.

    Attributes:
        waited: seconds spent waiting for batches.
    """

    def __init__(self, maker: BatchMaker, ahead: int = 2) -> None:
        self.maker = maker
        self.ahead = ahead
        self.waited = 0.0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._pending: dict[tuple[int, ...], Future[Batch]] = {}
        self._stream = torch.cuda.Stream(maker.store.device) if maker.store.device.type == "cuda" else None

    def __enter__(self) -> Self:
        """Nothing is made before the first `get`."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave what is not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def get(self, seed: tuple[int, ...], following: list[tuple[int, ...]]) -> Batch:
        """The batch of a seed; those that will be asked for next are begun.

        Raises:
            DatasetError: see `BatchMaker.batch`.
        """
        for key in (seed, *following[: self.ahead]):
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._make, key)
        began = time.perf_counter()
        batch = self._pending.pop(seed).result()
        self.waited += time.perf_counter() - began
        if self._stream is not None:
            for tensor in batch:
                tensor.record_stream(torch.cuda.current_stream(tensor.device))
        return batch

    def _make(self, seed: tuple[int, ...]) -> Batch:
        if self._stream is None:
            return self.maker.batch(*seed)
        with torch.cuda.stream(self._stream):
            batch = self.maker.batch(*seed)
            self._stream.synchronize()
            return batch
