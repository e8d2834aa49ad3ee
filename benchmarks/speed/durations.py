"""What is said of measured durations: quantiles, steadiness, and ratios with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..interval import bootstrap_interval

RESAMPLES = 2000
DRIFT = 1.2
"""Ratio of the last to the first third, either way, beyond which a run is called unsteady."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Some durations in milliseconds."""

    calls: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, durations: Sequence[float]) -> Self:
        """Of at least one duration."""
        values = np.asarray(durations, np.float64)
        least, p50, p90, p99 = np.percentile(values, (0, 50, 90, 99)).tolist()
        return cls(len(values), float(values.mean()), least, p50, p90, p99)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio and the bounds of its interval; without bounds where there was one round only, or scipy is missing."""

    value: float
    low: float | None
    high: float | None


def drift(periods: Sequence[float]) -> float:
    """Mean of the last third of the periods over that of the first; thirds are of one period at least."""
    third = max(1, len(periods) // 3)
    return float(np.mean(periods[-third:]) / np.mean(periods[:third]))


def is_steady(periods: Sequence[float]) -> bool:
    """Whether the last third is about as fast as the first."""
    return 1 / DRIFT < drift(periods) < DRIFT


def ratio_interval(
    above: NDArray[np.float64], below: NDArray[np.float64], typical_below: Callable[..., Any] = np.mean
) -> Ratio:
    """Mean of `above` over the mean of `below`, with its interval over rounds.

    Both were measured round by round in turn: a round that is drawn is drawn for both, so that what disturbed the
    machine cancels.

    Args:
        above: durations, (rounds, any number).
        below: durations, (rounds, any number).
        typical_below: `np.median` to divide by the median instead.
    """
    rounds = len(above)
    value = float(above.mean() / typical_below(below))
    if rounds < 2:
        return Ratio(value, None, None)

    def ratio(drawn: NDArray[np.intp]) -> Any:
        return above[drawn].mean(axis=(-2, -1)) / typical_below(below[drawn], axis=(-2, -1))

    try:
        return Ratio(value, *bootstrap_interval(ratio, rounds, RESAMPLES))
    except ModuleNotFoundError:
        return Ratio(value, None, None)
