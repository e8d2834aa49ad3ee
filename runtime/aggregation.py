"""Soft aggregation of several objects' scores (section 3.5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_EPS = np.float32(1e-7)


def soft_aggregation(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Merged probabilities of background and objects.

    The background's probability is the product of the objects' complements, kept 1e-7 away from 0 and 1; the merged
    probability is the softmax of the background's logit and the scores. With one object it is sigmoid(2 s).

    Args:
        scores: logits (K, h, w) of K objects; +100 and -100 stand for given masks.

    Returns:
        (K + 1, h, w), the background first; argmax over the first axis gives the label.
    """
    all_scores = np.empty((len(scores) + 1, *scores.shape[1:]), np.float32)
    with np.errstate(over="ignore"):
        np.exp(-scores, out=all_scores[1:])
    complement = 1 - 1 / (1 + all_scores[1:])
    background = complement.prod(axis=0).clip(_EPS, 1 - _EPS)
    np.log(background / (1 - background), out=all_scores[0])
    all_scores[1:] = scores
    all_scores -= all_scores.max(axis=0)
    np.exp(all_scores, out=all_scores)
    all_scores /= all_scores.sum(axis=0)
    return all_scores
