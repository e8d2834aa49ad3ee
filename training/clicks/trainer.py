"""The training loop of a click network: crops stay in a pool while they are clicked on (RITM's iterative training).

The trunk sees the picture alone; while it does not learn, it runs once for a crop however often that is clicked on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...model.clicks import ClickNet
from ...runtime.clicks.prompts import box_of, prompt_planes, whole, window_about
from ...runtime.clicks.simulated import next_click
from ..clips.frame_store import FrameStore
from ..draw import Draw
from ..losses import jaccard
from ..material import Film, object_mask
from .losses import normalised_focal, soft_iou
from .samples import LEAST_PIXELS, ClickSamples, Sample
from .settings import ClickSettings

VALIDATION_CLICKS = 3


class _Learner(nn.Module):
    """What Fabric wraps."""

    def __init__(self, net: ClickNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, seen: Tensor | list[Tensor], prompts: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) or the trunk's layers, and prompts -> logits (B, S, S) fp32."""
        layers = self.net.layers(seen) if isinstance(seen, Tensor) else seen
        return self.net.head(self.net.project(layers), prompts)[:, 0].float()


class ClickTrainer:
    """A network, its optimizer, the running mean of its weights, and how far it has come.

    Attributes:
        settings: of the run.
        net: the network that learns.
        averaged: the network of the mean weights.
        step: steps done.
    """

    def __init__(self, settings: ClickSettings, fabric: Fabric, net: ClickNet) -> None:
        self.settings = settings
        self.fabric = fabric
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = 0
        trunk = list(net.backbone.parameters())
        known = {id(parameter) for parameter in trunk}
        ladder = [parameter for parameter in net.parameters() if id(parameter) not in known]
        groups: list[dict[str, Any]] = [{"params": ladder, "scale": 1.0}]
        if settings.trunk_rate:
            groups.append({"params": trunk, "scale": settings.trunk_rate})
        else:
            net.backbone.requires_grad_(False)
        optimizer = torch.optim.AdamW(groups, lr=settings.rate, weight_decay=settings.weight_decay)
        self.module, self.optimizer = fabric.setup(_Learner(net), optimizer)
        self._mean = AveragedModel(net, multi_avg_fn=_running_mean(settings.average), use_buffers=True)
        self._pool: list[Sample] = []
        self._layers: list[list[Tensor]] = []

    @property
    def averaged(self) -> ClickNet:
        """The network of the mean weights, in eval mode."""
        module: ClickNet = self._mean.module  # type: ignore[assignment]
        return module.eval()

    def final_weights(self) -> AbstractContextManager[ClickNet]:
        """The network that a user would get: that of the mean weights."""
        return nullcontext(self.averaged)

    def state_dict(self) -> dict[str, Any]:
        """Everything that further steps depend on, but for the settings, the data and the crops in the pool."""
        return {
            "net": self.net.state_dict(),
            "mean": self._mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.net.load_state_dict(state["net"])
        self._mean.load_state_dict(state["mean"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])

    def run(self, samples: ClickSamples, report: Callable[[dict[str, float]], bool]) -> None:
        """Train until the last step, or until `report`, told of each step's values, says so by returning False."""
        self.module.train()
        self.net.backbone.eval()
        while self.step < self.settings.steps:
            if not report(self._take_step(samples)):
                break

    def _take_step(self, samples: ClickSamples) -> dict[str, float]:
        settings = self.settings
        draw = Draw(torch.device("cpu"), settings.seed, self.step)
        self._fill(samples, draw)
        waiting = [i for i, sample in enumerate(self._pool) if sample.rounds > 0]
        chosen = [waiting[i] for i in draw.indices(len(waiting), settings.batch)]
        batch = [self._pool[i] for i in chosen]
        prompts = self._tensor(np.stack([sample.planes for sample in batch]))
        true = self._tensor(np.stack([sample.true for sample in batch]))
        seen = self._pictures(batch) if settings.trunk_rate else self._kept(chosen)
        rate = settings.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.module(seen, prompts)
        loss = (normalised_focal(logits, true) + soft_iou(logits, true)).mean()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(self.module, self.optimizer, max_norm=settings.clip, error_if_nonfinite=False)
        if norm is None or bool(torch.isfinite(norm)):
            self.optimizer.step()
            self._mean.update_parameters(self.net)
        self.step += 1
        found = torch.sigmoid(logits.detach()).cpu().numpy()
        for sample, mask in zip(batch, found, strict=True):
            sample.answer(mask, draw)
        return {"loss": loss.item(), "J": jaccard(logits.detach(), true).mean().item(), "rate": rate}

    def _fill(self, samples: ClickSamples, draw: Draw) -> None:
        """New crops in the place of those that were learnt from often enough, several at a time."""
        done = [i for i, sample in enumerate(self._pool) if sample.rounds <= 0]
        missing = self.settings.pool - len(self._pool)
        if not missing and len(done) < self.settings.batch // 2:
            return
        fresh = [samples.sample(draw) for _ in range(len(done) + missing)]
        layers = [] if self.settings.trunk_rate else self._trunk(fresh)
        for place, sample in enumerate(fresh):
            kept = [layer[place] for layer in layers]
            if place < len(done):
                self._pool[done[place]] = sample
                self._layers[done[place]] = kept
            else:
                self._pool.append(sample)
                self._layers.append(kept)

    @torch.no_grad()
    def _trunk(self, fresh: list[Sample]) -> list[Tensor]:
        parts = []
        size = self.settings.batch
        for start in range(0, len(fresh), size):
            with self.fabric.autocast():
                parts.append(self.net.layers(self._pictures(fresh[start : start + size])))
        return [torch.cat(layer) for layer in zip(*parts, strict=True)]

    def _kept(self, chosen: list[int]) -> list[Tensor]:
        return [torch.stack(layer) for layer in zip(*(self._layers[i] for i in chosen), strict=True)]

    def _pictures(self, batch: list[Sample]) -> Tensor:
        images = torch.stack([sample.image for sample in batch]).to(self.fabric.device).float()
        return images.contiguous(memory_format=torch.channels_last)

    def _tensor(self, array: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
        return torch.from_numpy(array).to(self.fabric.device)

    @torch.no_grad()
    def validate(self, samples: list[Sample]) -> tuple[float, float]:
        """Mean J of the mean weights on crops with a box each: after the box, and after three clicks without it.

        NaN for no crops.
        """
        boxed, clicked = [], []
        net, side = self.averaged, self.settings.crop
        for start in range(0, len(samples), self.settings.batch):
            batch = samples[start : start + self.settings.batch]
            true = self._tensor(np.stack([sample.true for sample in batch]))
            with self.fabric.autocast():
                features = net.project(net.layers(self._pictures(batch)))

            def look(planes: list[np.ndarray[Any, np.dtype[np.float32]]], features: list[Tensor] = features) -> Tensor:
                with self.fabric.autocast():
                    return net.head(features, self._tensor(np.stack(planes)))[:, 0].float()

            boxed.append(jaccard(look([sample.planes for sample in batch]), true))
            found = np.zeros(true.shape, np.float32)
            clicks: list[list[Any]] = [[] for _ in batch]
            for _ in range(VALIDATION_CLICKS):
                for sample, mask, given in zip(batch, found, clicks, strict=True):
                    click = next_click(sample.true > 0.5, mask > 0.5, given)
                    given += [] if click is None else [click]
                frame = whole((side, side))
                logits = look([prompt_planes(frame, side, c, None, m) for c, m in zip(clicks, found, strict=True)])
                found = torch.sigmoid(logits).cpu().numpy()
            clicked.append(jaccard(logits, true))
        if not boxed:
            return math.nan, math.nan
        return torch.cat(boxed).mean().item(), torch.cat(clicked).mean().item()


def _running_mean(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential mean that forgets its beginning fast."""

    def update(means: Any, values: Any, count: Any) -> None:
        steps = float(count)
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(means, values, count)

    return update


def validation_samples(films: tuple[Film, ...], store: FrameStore, side: int, every: int = 8) -> list[Sample]:
    """Every so many-th frame of films kept aside, cropped about its object and with its box as the prompt."""
    samples = []
    for film in films:
        for image, mask in film.frames[::every]:
            labels = store.labels(mask)
            region = object_mask(labels, int(labels.max()) if film.ids else None).numpy()
            box = box_of(region)
            if box is None or np.count_nonzero(region) < LEAST_PIXELS:
                continue
            window = window_about(box, (region.shape[0], region.shape[1]))
            crop = window.cut(store.image(image).permute(1, 2, 0).numpy(), side)
            true = window.cut_mask(region.astype(np.float32), side)
            planes = prompt_planes(whole((side, side)), side, (), box_of(true > 0.5), None)
            samples.append(Sample(torch.from_numpy(crop.transpose(2, 0, 1).copy()), true, planes, [], 1))
    return samples
