"""How a click network is trained."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from ...model.clicks import ClickConfig


@dataclass(frozen=True, slots=True)
class ClickSettings:
    """One run.

    Attributes:
        model: the network.
        crop: side of the crops that are learnt from; may differ from the model's.
        steps: optimizer steps in all.
        batch: crops per step.
        pool: crops that are being clicked on, at least two batches; a batch is drawn from them.
        rounds: most clicks that a crop stays in the pool for.
        films: share of the crops that come from films, if there are both films and pictures.
        rate: AdamW's learning rate after the warm-up; it falls along a cosine to a hundredth.
        warm_up: steps over which it rises.
        trunk_rate: the trunk's learning rate over the ladder's; 0 for a trunk that does not learn. Its BatchNorm keeps
            its statistics in any case.
        clip: largest norm of the gradient.
        weight_decay: AdamW's.
        average: decay of the running mean of the weights, which is what is saved.
        hold_out: every how many films one is kept for validation; 0 for none.
        validate_every, save_every: in steps.
        seed: of everything random.
    """

    model: ClickConfig = field(default_factory=ClickConfig)
    crop: int = 256
    steps: int = 6000
    batch: int = 16
    pool: int = 64
    rounds: int = 8
    films: float = 0.45
    rate: float = 1e-3
    warm_up: int = 100
    trunk_rate: float = 0.0
    clip: float = 2.0
    weight_decay: float = 1e-2
    average: float = 0.998
    hold_out: int = 6
    validate_every: int = 500
    save_every: int = 100
    seed: int = 0

    def learning_rate(self, step: int) -> float:
        """The ladder's learning rate at a step, counted from 0."""
        risen = min(1.0, (step + 1) / max(self.warm_up, 1))
        return self.rate * risen * (0.01 + 0.99 * (1 + math.cos(math.pi * min(step / self.steps, 1.0))) / 2)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {**asdict(self), "model": self.model.to_dict()}


PRESETS = {
    "clicks": ClickSettings(),
    # Everything learns together, gently, at the size that the network is used at.
    "clicks-stage2": ClickSettings(crop=320, steps=1500, rate=3e-4, warm_up=50, trunk_rate=0.1, validate_every=300),
}
