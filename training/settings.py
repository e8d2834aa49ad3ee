"""How a network is trained: section 4.1's numbers as presets, and everything that may differ from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """One run.

    Attributes:
        model: the network; `label_heads` 1 is version 1 of Table 2.
        steps: optimizer steps in all.
        batch: mini-sequences per optimizer step, over all devices and accumulated parts.
        accumulate: parts that a batch is divided into.
        frames: N_train, frames of a mini-sequence.
        segment: N'_train, frames of the film that a mini-sequence is drawn from where it is scattered.
        scattered: share of mini-sequences from films whose frames lie anywhere in a segment; the others' keep a stride.
        strides: least and greatest stride, all ratios alike.
        often: weights of films by name, beside 1 of every other; parts of a film share its weight.
        doubtful: weight of films whose masks a network made.
        synthetic: share of mini-sequences that are made from photos, if there are both photos and films.
        crowded: share of batches of half as many mini-sequences with two objects each, which compete.
        rivals: share of mini-sequences from films with another film's object, or the same once more, pasted in.
        absent: share of mini-sequences from films in which the object is away for some frames.
        compressed: share of mini-sequences with the noise of JPEG.
        rate: Adam's learning rate after the warm-up.
        warm_up: steps over which it rises.
        drops: steps at which it is divided by `drop_factor`.
        decay_from: share of the steps after which it falls along a cosine to a hundredth; 1 for never.
        train_trunk: whether the trunk learns too; its BatchNorm keeps its statistics in any case.
        trunk_rate: the trunk's learning rate over the heads'.
        frozen_layers: the trunk's stem and this many of its layers never learn.
        frozen_depthwise: whether the trunk's depthwise convolutions never learn; their weights' gradients are most of
            the trunk's time on a CPU.
        frozen_norms: whether every BatchNorm, the decoder's too, works with the statistics that it has, as at run time.
        average: decay of the weights' mean over steps, which is validated and saved as weights; 0 for none.
        clip: largest norm of the gradient.
        weight_decay: AdamW's.
        first_steps, update_steps: steepest-descent steps at the first frame and at an update.
        lovasz: which Lovasz loss.
        cross_entropy: weight of a pixel-wise cross-entropy besides.
        empty_frames: weight of the worst pixels' error in frames without the object, where a Lovasz loss sees only one
            pixel; 0 leaves such frames to the Lovasz loss.
        cosine: lambda of eq. 10; 0 is version 2 of Table 2.
        branch_dropout: probability that either branch is left out of a frame, so that each learns to stand alone.
        hold_out: every how many films one is kept for validation; 0 for none.
        held: names of films kept for validation, instead.
        validation_clips: mini-sequences of each film kept.
        validate_every, save_every, picture_every: in steps.
        seed: of everything random.
    """

    model: ModelConfig
    steps: int
    batch: int
    accumulate: int = 1
    frames: int = 4
    segment: int = 100
    scattered: float = 1.0
    strides: tuple[int, int] = (1, 10)
    often: Mapping[str, float] = field(default_factory=dict)
    doubtful: float = 1.0
    synthetic: float = 0.7
    crowded: float = 0.0
    rivals: float = 0.0
    absent: float = 0.0
    compressed: float = 0.0
    rate: float = 1e-3
    warm_up: int = 100
    drops: tuple[int, ...] = ()
    drop_factor: float = 5.0
    decay_from: float = 1.0
    train_trunk: bool = False
    trunk_rate: float = 1.0
    frozen_layers: int = 0
    frozen_depthwise: bool = False
    frozen_norms: bool = False
    average: float = 0.0
    clip: float = 2.0
    weight_decay: float = 0.0
    first_steps: int = 5
    update_steps: int = 2
    lovasz: Literal["softmax", "hinge"] = "softmax"
    cross_entropy: float = 0.0
    empty_frames: float = 0.0
    cosine: float = 0.01
    branch_dropout: float = 0.0
    hold_out: int = 0
    held: tuple[str, ...] = ()
    validation_clips: int = 1
    validate_every: int = 1000
    save_every: int = 1000
    picture_every: int = 500
    seed: int = field(default=0)

    def learning_rate(self, step: int) -> float:
        """The heads' learning rate at a step, counted from 0."""
        rate = self.rate * min(1.0, (step + 1) / max(self.warm_up, 1))
        rate /= self.drop_factor ** sum(step >= drop for drop in self.drops)
        start = self.decay_from * self.steps
        if step > start:
            progress = min((step - start) / (self.steps - start), 1.0)
            rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
        return rate

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return {**asdict(self), "often": dict(self.often), "model": self.model.to_dict()}


def preset(name: str) -> TrainSettings:
    """The settings called `name`.

    Raises:
        ValueError: there are none of that name.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset is called {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


PRESETS = {
    "lite": TrainSettings(
        model=ModelConfig.named("lite"),
        steps=4000,
        batch=4,
        decay_from=0.5,
        weight_decay=1e-4,
        lovasz="hinge",
        cross_entropy=1.0,
        branch_dropout=0.1,
        hold_out=7,
        validate_every=200,
        save_every=100,
        picture_every=100,
    ),
    # Human masks in real motion (DAVIS 2016); the trunk's upper layers learn too. The five films kept show a dancer, a
    # rider, thin lines, a small ball and a car that turns. Fast, thin and turning things are drawn more often.
    "lite-finetune": TrainSettings(
        model=ModelConfig.named("lite"),
        steps=2000,
        batch=4,
        synthetic=0.2,
        scattered=0.15,
        strides=(1, 12),
        often={
            name: 3.0
            for name in (
                "bmx-bumps",
                "breakdance-flare",
                "drift-turn",
                "hockey",
                "horsejump-low",
                "motocross-bumps",
                "motorbike",
                "paragliding",
                "rollerblade",
                "surf",
                "swing",
                "tennis",
            )
        },
        doubtful=0.3,
        crowded=0.25,
        rivals=0.3,
        absent=0.15,
        compressed=0.3,
        empty_frames=1.0,
        rate=2e-4,
        warm_up=30,
        decay_from=0.4,
        train_trunk=True,
        trunk_rate=0.2,
        frozen_layers=2,
        frozen_depthwise=True,
        frozen_norms=True,
        average=0.99,
        weight_decay=1e-4,
        lovasz="hinge",
        cross_entropy=1.0,
        branch_dropout=0.05,
        held=("car-turn", "dance-jump", "kite-walk", "scooter-gray", "soccerball"),
        validation_clips=4,
        validate_every=100,
        save_every=20,
        picture_every=50,
    ),
    # 180k iterations in all; the rate was divided by 25 before the trunk is released at 90k.
    "paper-stage1": TrainSettings(
        model=ModelConfig.named("paper"), steps=90_000, batch=20, synthetic=0.0, rate=1e-2, drops=(40_000, 80_000)
    ),
    "paper-stage2": TrainSettings(
        model=ModelConfig.named("paper"),
        steps=90_000,
        batch=20,
        synthetic=0.0,
        rate=1e-2 / 25,
        drops=(25_000, 75_000),
        train_trunk=True,
    ),
}
