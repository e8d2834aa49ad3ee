"""A mini-sequence through the network (section 3.6): the memory grows at every frame, by the predicted mask."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..model.label_encoder import LabelEncodings
from ..model.network import JointNet
from .losses import encoding_similarity


class Unrolled(NamedTuple):
    """What a mini-sequence gives."""

    logits: Tensor
    """(S, N - 1, H, W), of every frame but the first."""
    similarity: Tensor
    """(S, N), eq. 8 of every frame."""


class MiniSequenceNet(nn.Module):
    """The network, unrolled over S mini-sequences of N frames; differentiable through the steepest descent.

    Attributes:
        net: the network.
        first_steps, update_steps: steepest-descent steps at the first frame and at every further one.
        train_trunk: whether gradients reach the trunk.
        frozen_norms: whether the heads' BatchNorm keeps its statistics too.
    """

    def __init__(
        self, net: JointNet, first_steps: int, update_steps: int, train_trunk: bool, frozen_norms: bool = False
    ) -> None:
        super().__init__()
        self.net = net
        self.first_steps = first_steps
        self.update_steps = update_steps
        self.train_trunk = train_trunk
        self.frozen_norms = frozen_norms
        net.backbone.requires_grad_(train_trunk)

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
            first_masks: (S, H, W), 0 or 1.
            gates: (S, N - 1, 2), factors of the transduction's and the induction's encodings; 1, or 0 to leave one out.
        """
        net = self.net
        sequences, frames = images.shape[:2]
        with torch.set_grad_enabled(self.train_trunk and torch.is_grad_enabled()):
            layers = [_widened(layer) for layer in net.backbone(images.flatten(0, 1))]
        with _full_precision(images):
            x_tra = net.adjust_tra(layers[2]).unflatten(0, (sequences, frames))
            x_ind = net.adjust_ind(layers[2]).unflatten(0, (sequences, frames))
        per_frame = [layer.unflatten(0, (sequences, frames)) for layer in layers]
        memory = [self._encode(first_masks[:, None])]
        omega: Tensor | None = None
        logits: list[Tensor] = []
        for t in range(1, frames):
            E_ind, W, E_tra = (torch.stack(parts, dim=1) for parts in zip(*memory, strict=True))
            with _full_precision(images):
                weights = x_ind.new_full((sequences, t), 1 / t)
                steps = self.first_steps if t == 1 else self.update_steps
                omega = net.target_model.fit(x_ind[:, :t], E_ind, W, weights, omega, steps)
                transduced = net.transformer.decode(x_tra[:, t], net.transformer.encode(x_tra[:, :t]), E_tra)
                induced = net.target_model(x_ind[:, t], omega)
            gate = gates[:, t - 1, :, None, None, None]
            encodings = gate[:, 0] * transduced + gate[:, 1] * induced
            frame = _widened(net.decoder(encodings, [layer[:, t] for layer in per_frame]))
            logits.append(frame[:, 0])
            memory.append(self._encode(torch.sigmoid(frame)))
        similarity = torch.stack([encoding_similarity(encodings) for encodings in memory], dim=1)
        return Unrolled(torch.stack(logits, dim=1), similarity)

    def _encode(self, masks: Tensor) -> LabelEncodings:
        return LabelEncodings(*(_widened(part) for part in self.net.label_encoder(masks)))


def _full_precision(like: Tensor) -> torch.autocast:
    """Norms over whole maps, exponentials and the steepest descent overflow or stall in half precision."""
    return torch.autocast(like.device.type, enabled=False)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
