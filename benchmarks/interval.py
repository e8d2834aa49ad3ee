"""Bootstrap intervals of what was measured several times. Needs scipy, of the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


def bootstrap_interval(statistic: Callable[[NDArray[np.intp]], Any], count: int, resamples: int) -> tuple[float, float]:
    """Percentile interval (Efron 1979) of a statistic of measurements that are drawn with replacement.

    Args:
        statistic: from numbers (..., count) of measurements to values (...).
        count: of the measurements, two or more.
        resamples: how often they are drawn.
    """
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.arange(count),),
        lambda numbers, axis: statistic(numbers.astype(np.intp)),
        vectorized=True,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(found.low), float(found.high)
