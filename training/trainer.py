"""The training loop (section 3.6), on any device that Lightning Fabric knows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ..model.network import JointNet
from .clips.batches import Batch, Prefetcher
from .losses import false_alarm, jaccard, lovasz_hinge, lovasz_softmax
from .mini_sequence import MiniSequenceNet, Unrolled
from .settings import TrainSettings

LOVASZ = {"softmax": lovasz_softmax, "hinge": lovasz_hinge}


@dataclass
class Progress:
    """What a finished step says.

    Attributes:
        step: steps done.
        values: means over the steps since the last report: loss, segmentation, cosine, J, rate.
        batch, output: the step's last mini-sequences and what the network made of them.
        finite: whether the gradient was finite; otherwise the step changed nothing.
    """

    step: int
    values: dict[str, float]
    batch: Batch
    output: Unrolled
    finite: bool = field(default=True)


def sequence_loss(settings: TrainSettings, output: Unrolled, masks: Tensor) -> dict[str, Tensor]:
    """Eq. 10 and its parts, means over the batch.

    Args:
        settings: which Lovasz loss, and the weights.
        output: of the network.
        masks: (S, O, N, H, W), true.
    """
    true = masks[:, :, 1:].flatten(0, 2)
    logits = output.logits.flatten(0, 2)
    per_frame = LOVASZ[settings.lovasz](logits, true)
    if settings.empty_frames:
        empty = true.flatten(1).sum(1) == 0
        per_frame = torch.where(empty, settings.empty_frames * false_alarm(logits), per_frame)
    segmentation = per_frame.mean()
    if settings.cross_entropy:
        pixelwise = nn.functional.binary_cross_entropy_with_logits(logits, true)
        segmentation = segmentation + settings.cross_entropy * pixelwise
    cosine = output.similarity.mean()
    return {
        "loss": segmentation + settings.cosine * cosine,
        "segmentation": segmentation,
        "cosine": cosine,
        "J": jaccard(logits.detach(), true).mean(),
    }


def freeze(net: JointNet, settings: TrainSettings) -> None:
    """Take from the trunk's parameters those that never learn; the others stay as they are."""
    if settings.frozen_layers:
        for name, module in net.backbone.named_children():
            if not name.startswith("layer") or int(name.removeprefix("layer")) <= settings.frozen_layers:
                module.requires_grad_(False)
    if settings.frozen_depthwise:
        for module in net.backbone.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.requires_grad_(False)


class WeightAverage:
    """The mean of a network's weights over steps, the last ones weighing most.

    Attributes:
        decay: by which the past is multiplied at every step; less at first, where there is little of it.
        state: as the network's state dict has it.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        """Add the weights after `step` steps."""
        share = 1 - min(self.decay, step / (step + 9))
        for name, value in net.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, share)
            else:
                self.state[name].copy_(value)


class Trainer:
    """A network, its optimizer, and how far it has come.

    Attributes:
        settings: of the run.
        fabric: device, precision, processes.
        net: the network that learns.
        average: the mean of its weights, if the settings want one.
        step: steps done.
    """

    def __init__(self, settings: TrainSettings, fabric: Fabric, net: JointNet) -> None:
        self.settings = settings
        self.fabric = fabric
        self.net = net
        self.step = 0
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        unrolled = MiniSequenceNet(
            net,
            settings.first_steps,
            settings.update_steps,
            settings.train_trunk,
            settings.frozen_norms,
            settings.frozen_layers if settings.train_trunk else 4,
        )
        freeze(net, settings)
        heads = [p for name, p in net.named_parameters() if not name.startswith("backbone.")]
        groups: list[dict[str, Any]] = [{"params": heads, "scale": 1.0}]
        if settings.train_trunk:
            trunk = [p for p in net.backbone.parameters() if p.requires_grad]
            groups.append({"params": trunk, "scale": settings.trunk_rate})
        optimizer = torch.optim.AdamW(groups, lr=settings.rate, weight_decay=settings.weight_decay)
        self.module, self.optimizer = fabric.setup(unrolled, optimizer)
        self.average = WeightAverage(net, settings.average) if settings.average else None
        self._scaled = str(fabric._precision.precision).startswith("16")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the settings and the data."""
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "step": self.step}
        return state | ({"average": self.average.state} if self.average else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The reverse of `state_dict`."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        if self.average:
            self.average.state = {name: value.to(self.fabric.device) for name, value in state["average"].items()}

    def run(self, batches: Prefetcher, report: Callable[[Progress], bool]) -> None:
        """Train until the last step, or until `report`, which is called after each, says so by returning False."""
        self.module.train()
        while self.step < self.settings.steps:
            if not report(self._take_step(batches)):
                break

    def _take_step(self, batches: Prefetcher) -> Progress:
        settings = self.settings
        rate = settings.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in range(settings.accumulate):
            batch = batches.get(self._seed(self.step, part), self._following(part))
            last = part == settings.accumulate - 1
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                output = self.module(batch.images, batch.masks[:, :, 0], batch.gates)
                parts = sequence_loss(settings, output, batch.masks)
                self.fabric.backward(parts["loss"] / settings.accumulate)
            for name, value in parts.items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value.detach() / settings.accumulate
        norm = self.fabric.clip_gradients(self.module, self.optimizer, max_norm=settings.clip, error_if_nonfinite=False)
        finite = norm is None or bool(torch.isfinite(norm))
        # In fp16 the scaler itself leaves out such steps, and must see them to lower its scale.
        if finite or self._scaled:
            self.optimizer.step()
        self.step += 1
        if self.average:
            self.average.update(self.net, self.step)
        values = {name: value.item() for name, value in sums.items()} | {"rate": rate}
        return Progress(self.step, values, batch, output, finite)

    def _seed(self, step: int, part: int) -> tuple[int, ...]:
        return (step, part, self.fabric.global_rank)

    def _following(self, part: int) -> list[tuple[int, ...]]:
        """Seeds of the batches after this one, as far as the run goes."""
        count = self.step * self.settings.accumulate + part
        ahead = range(count + 1, min(count + 3, self.settings.steps * self.settings.accumulate))
        return [self._seed(*divmod(n, self.settings.accumulate)) for n in ahead]

    @contextmanager
    def final_weights(self) -> Iterator[JointNet]:
        """The network with the weights that a user would get: their mean over steps, if there is one."""
        if self.average is None:
            yield self.net
            return
        learning = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.net.load_state_dict(self.average.state)
        try:
            yield self.net
        finally:
            self.net.load_state_dict(learning)

    @torch.no_grad()
    def validate(self, batches: list[Batch]) -> float:
        """Mean J over mini-sequences, by the averaged weights if there are such; NaN if there are none."""
        self.module.eval()
        with self.final_weights():
            scores = [
                jaccard(
                    self.module(b.images, b.masks[:, :, 0], b.gates).logits.flatten(0, 2),
                    b.masks[:, :, 1:].flatten(0, 2),
                )
                for b in batches
            ]
        self.module.train()
        return torch.cat(scores).mean().item() if scores else math.nan
