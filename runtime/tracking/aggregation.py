"""Soft aggregation of several objects' scores (section 3.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_EPS = np.float32(1e-7)
_BLOCK = 1 << 16
"""Numbers that are aggregated at a time, so that all steps find them in the cache."""


def soft_aggregation(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Merged probabilities of background and objects.

    The background's probability is the product of the objects' complements, kept 1e-7 away from 0 and 1; the merged
    probability is the softmax of the background's logit and the scores. With one object it is sigmoid(2 s).

    Args:
        scores: logits (K, h, w) of K objects; +100 and -100 stand for given masks.

    Returns:
        (K + 1, h, w), the background first; argmax over the first axis gives the label.
    """
    merged = np.empty((len(scores) + 1, *scores.shape[1:]), np.float32)
    rows = 1 + _BLOCK // (1 + merged[0, 0].size * len(merged)) if scores.size else 1
    for first in range(0, scores.shape[1], rows):
        _aggregate(scores[:, first : first + rows], merged[:, first : first + rows])
    return merged


def strongest(merged: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Index of the largest of several maps (K, h, w), the first where they are equal: (h, w)."""
    index = np.zeros(merged.shape[1:], np.uint8)
    largest = merged[0].copy()
    for i, probability in enumerate(merged[1:], start=1):
        # Later indices are larger; choosing by a mask would take ten times as long.
        np.maximum(index, (probability > largest) * np.uint8(i), out=index)
        np.maximum(largest, probability, out=largest)
    return index


def _aggregate(scores: NDArray[np.float32], merged: NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):
        np.exp(-scores, out=merged[1:])
    complement = 1 - 1 / (1 + merged[1:])
    background = complement.prod(axis=0).clip(_EPS, 1 - _EPS)
    np.log(background / (1 - background), out=merged[0])
    merged[1:] = scores
    merged -= merged.max(axis=0)
    np.exp(merged, out=merged)
    merged /= merged.sum(axis=0)
