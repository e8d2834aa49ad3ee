"""Random choices that depend on nothing but a seed."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


class Draw:
    """Scalars from the CPU, so that every device makes the same choices; noise on the device itself."""

    def __init__(self, device: torch.device, *seed: int) -> None:
        self.device = device
        state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
        self._scalars = torch.Generator().manual_seed(state)
        self._noise = torch.Generator(device).manual_seed(state)

    def uniform(self, low: float, high: float) -> float:
        """Between low and high."""
        return low + (high - low) * torch.rand((), generator=self._scalars).item()

    def log_uniform(self, low: float, high: float) -> float:
        """Between low and high, all ratios alike."""
        return math.exp(self.uniform(math.log(low), math.log(high)))

    def chance(self, probability: float) -> bool:
        """True that often."""
        return self.uniform(0, 1) < probability

    def index(self, count: int) -> int:
        """0 to count - 1."""
        return int(torch.randint(count, (), generator=self._scalars))

    def indices(self, count: int, number: int) -> list[int]:
        """`number` different ones of 0 to count - 1."""
        return torch.randperm(count, generator=self._scalars)[:number].tolist()

    def normal(self, deviation: float, *shape: int) -> Tensor:
        """Gaussian values of the shape, fp32, on the device."""
        return (torch.randn(shape, generator=self._scalars) * deviation).to(self.device)

    def uniforms(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform values of the shape, fp32, on the device."""
        return (low + (high - low) * torch.rand(shape, generator=self._scalars)).to(self.device)

    def noise(self, deviation: float, *shape: int) -> Tensor:
        """Many Gaussian values, drawn on the device."""
        return torch.randn(shape, generator=self._noise, device=self.device) * deviation
