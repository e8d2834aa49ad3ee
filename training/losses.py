"""The losses of section 3.6: Lovasz (Berman et al., CVPR 2018) and the cosine similarity of the mask encodings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.label_encoder import LabelEncodings


def jaccard_slopes(labels: Tensor) -> Tensor:
    """The Jaccard loss's increments along pixels sorted by falling error (algorithm 1 of Berman et al.).

    Args:
        labels: (B, P), 0 or 1, in that order.

    Returns:
        (B, P): by how much 1 - J grows when each pixel joins the wrong ones.
    """
    total = labels.sum(1, keepdim=True)
    intersection = total - labels.cumsum(1)
    union = total + (1 - labels).cumsum(1)
    loss = 1 - intersection / union
    return torch.cat((loss[:, :1], loss[:, 1:] - loss[:, :-1]), dim=1)


def _extend(errors: Tensor, labels: Tensor) -> Tensor:
    ordered, order = errors.sort(dim=1, descending=True)
    return (ordered * jaccard_slopes(labels.gather(1, order))).sum(1)


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovasz softmax of the foreground class (eq. 9): the extension of 1 - J at the errors |y - p|.

    Args:
        logits: (B, ...) of the foreground; the background's are zero, so that the softmax is a sigmoid.
        labels: the same shape, 0 or 1.

    Returns:
        (B,); 1 - J exactly where all p are 0 or 1.
    """
    y = labels.flatten(1)
    return _extend((y - torch.sigmoid(logits.flatten(1))).abs(), y)


def lovasz_hinge(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovasz hinge with elu + 1 instead of the hinge's corner, whose gradient never dies.

    Args:
        logits: (B, ...).
        labels: the same shape, 0 or 1.

    Returns:
        (B,).
    """
    y = labels.flatten(1)
    return _extend(F.elu(1 - logits.flatten(1) * (2 * y - 1)) + 1, y)


def false_alarm(logits: Tensor, share: float = 0.01) -> Tensor:
    """What is said of frames without the object: the mean hinge (as of `lovasz_hinge`) of the worst pixels; (B,).

    The Lovasz losses see one pixel only where there is no object.
    """
    scores = logits.flatten(1)
    worst = scores.topk(max(int(share * scores.shape[1]), 1), dim=1).values
    return (F.elu(1 + worst) + 1).mean(1)


def encoding_similarity(encodings: LabelEncodings) -> Tensor:
    """Eq. 8: the cosine between E_ind and E_tra as one vector each; (B,)."""
    return F.cosine_similarity(encodings.E_ind.flatten(1), encodings.E_tra.flatten(1))


def jaccard(logits: Tensor, labels: Tensor) -> Tensor:
    """J of the thresholded logits: (B, ...) -> (B,); 1 where both are empty."""
    predicted, true = logits.flatten(1) > 0, labels.flatten(1) > 0.5
    union = (predicted | true).sum(1)
    return torch.where(union > 0, (predicted & true).sum(1) / union.clamp(min=1), 1.0)
