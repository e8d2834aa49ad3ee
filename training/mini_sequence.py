"""A mini-sequence through the network (section 3.6): the memory grows at every frame, by the merged prediction."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..model.backbone import EfficientNetLite0, SamePadConv
from ..model.label_encoder import LabelEncodings
from ..model.network import JointNet
from .frozen_trunk import FrozenTrunk
from .losses import encoding_similarity


class Unrolled(NamedTuple):
    """What a mini-sequence gives."""

    logits: Tensor
    """(S, O, N - 1, H, W), of every frame but the first; those of `merge_logits`, halved."""
    similarity: Tensor
    """(S * O, N), eq. 8 of every frame."""


class MiniSequenceNet(nn.Module):
    """The network, unrolled over S mini-sequences of N frames; differentiable through the steepest descent.

    Attributes:
        net: the network.
        first_steps, update_steps: steepest-descent steps at the first frame and at every further one.
        train_trunk: whether gradients reach the trunk.
        frozen_norms: whether the heads' BatchNorm keeps its statistics too.
        frozen_layers: how many of the trunk's layers never learn; taken as they are at the first call.
    """

    def __init__(
        self,
        net: JointNet,
        first_steps: int,
        update_steps: int,
        train_trunk: bool,
        frozen_norms: bool = False,
        frozen_layers: int = 0,
    ) -> None:
        super().__init__()
        self.net = net
        self.first_steps = first_steps
        self.update_steps = update_steps
        self.train_trunk = train_trunk
        self.frozen_norms = frozen_norms
        self.frozen_layers = frozen_layers
        self._frozen: FrozenTrunk | None = None
        net.backbone.requires_grad_(train_trunk)
        if train_trunk:
            _widen_strided(net.backbone)

    def train(self, mode: bool = True) -> MiniSequenceNet:
        """As of any module, but the trunk's BatchNorm always keeps its statistics."""
        super().train(mode)
        self.net.backbone.eval()
        if self.frozen_norms:
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor, first_masks: Tensor, gates: Tensor) -> Unrolled:
        """Segment frames 1 to N - 1.

        Args:
            images: (S, N, 3, H, W), RGB 0..255.
            first_masks: (S, O, H, W), 0 or 1; the O objects share the crop, and compete.
            gates: (S, N - 1, 2), factors of the transduction's and the induction's encodings; 1, or 0 to leave one out.
        """
        net = self.net
        sequences, frames = images.shape[:2]
        objects = first_masks.shape[1]
        with torch.set_grad_enabled(self.train_trunk and torch.is_grad_enabled()):
            shared = [_widened(layer) for layer in self._trunk(images.flatten(0, 1))]
        with _full_precision(images):
            x_tra = _per_object(net.adjust_tra(shared[2]).unflatten(0, (sequences, frames)), objects)
            x_ind = _per_object(net.adjust_ind(shared[2]).unflatten(0, (sequences, frames)), objects)
        layers = [layer.unflatten(0, (sequences, frames)) for layer in shared]
        gates = _per_object(gates, objects)[..., None, None, None]
        memory = [self._encode(first_masks.flatten(0, 1)[:, None])]
        omega: Tensor | None = None
        logits: list[Tensor] = []
        for t in range(1, frames):
            E_ind, W, E_tra = (torch.stack(parts, dim=1) for parts in zip(*memory, strict=True))
            with _full_precision(images):
                weights = x_ind.new_full((len(x_ind), t), 1 / t)
                steps = self.first_steps if t == 1 else self.update_steps
                omega = net.target_model.fit(x_ind[:, :t], E_ind, W, weights, omega, steps)
                transduced = net.transformer.decode(x_tra[:, t], net.transformer.encode(x_tra[:, :t]), E_tra)
                induced = net.target_model(x_ind[:, t], omega)
            encodings = gates[:, t - 1, 0] * transduced + gates[:, t - 1, 1] * induced
            decoded = net.decoder(encodings, [_per_object(layer[:, t], objects) for layer in layers])
            merged = merge_logits(_widened(decoded)[:, 0].unflatten(0, (sequences, objects)))
            logits.append(merged / 2)
            memory.append(self._encode(torch.sigmoid(merged).flatten(0, 1)[:, None]))
        similarity = torch.stack([encoding_similarity(encodings) for encodings in memory], dim=1)
        return Unrolled(torch.stack(logits, dim=2), similarity)

    def _trunk(self, images: Tensor) -> list[Tensor]:
        trunk = self.net.backbone
        if not (self.frozen_layers and isinstance(trunk, EfficientNetLite0)):
            return trunk(images)
        if self._frozen is None:
            self._frozen = FrozenTrunk(trunk, self.frozen_layers)
        layers = self._frozen(images)
        for i in range(self.frozen_layers, 4):
            layers.append(getattr(trunk, f"layer{i + 1}")(layers[-1]))
        return layers

    def _encode(self, masks: Tensor) -> LabelEncodings:
        return LabelEncodings(*(_widened(part) for part in self.net.label_encoder(masks)))


def _widen_strided(trunk: nn.Module) -> None:
    """Strided depthwise convolutions in full precision: their gradient in bf16 takes seven times as long on a CPU."""

    def forward(conv: SamePadConv, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return SamePadConv.forward(conv, x)
        with _full_precision(x):
            return SamePadConv.forward(conv, _widened(x)).to(x.dtype)

    for module in trunk.modules():
        if isinstance(module, SamePadConv) and module.groups > 1 and module.stride[0] > 1:
            module.forward = partial(forward, module)  # type: ignore[method-assign]


def merge_logits(logits: Tensor) -> Tensor:
    """Soft aggregation of the objects of a frame, as at run time: log-odds (S, O, H, W) -> merged ones, the same shape.

    The background's probability is that of no object; one object alone gets twice its own log-odds.
    """
    absent = nn.functional.logsigmoid(-logits).sum(1, keepdim=True)
    # As at run time, the background's probability stays 1e-7 away from 0 and 1.
    bounded = absent.clamp(max=-_SURE)
    background = (bounded - torch.log(-torch.expm1(bounded))).clamp(min=math.log(_SURE))
    everything = torch.cat((background, logits), dim=1)
    others = [torch.cat((everything[:, :i], everything[:, i + 1 :]), dim=1) for i in range(1, everything.shape[1])]
    return torch.stack([logits[:, i] - other.logsumexp(1) for i, other in enumerate(others)], dim=1)


_SURE = 1e-7


def _per_object(x: Tensor, objects: int) -> Tensor:
    """(S, ...) -> (S * O, ...), each repeated."""
    return x if objects == 1 else x.repeat_interleave(objects, dim=0)


def _full_precision(like: Tensor) -> torch.autocast:
    """Norms over whole maps, exponentials and the steepest descent overflow or stall in half precision."""
    return torch.autocast(like.device.type, enabled=False)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
