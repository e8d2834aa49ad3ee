"""The loss of RITM: the normalised focal loss (Sofiiuk et al., AdaptIS, ICCV 2019, eq. 5); and one minus a soft IoU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_GAMMA = 2.0


def normalised_focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Focal cross-entropy whose weights have the mean 1 in every crop, so that its gradient does not fade.

    Args:
        logits: (B, H, W).
        labels: the same shape, 0..1.

    Returns:
        (B,).
    """
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    with torch.no_grad():
        weight = (labels - torch.sigmoid(logits)).abs() ** _GAMMA
        # With all pixels nearly right the normalisation would blow up what is left: it is bounded, as in RITM's code.
        weight = weight / (weight.mean((1, 2), keepdim=True) + 1e-3)
    return (weight * entropy).mean((1, 2))


def soft_iou(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - IoU of the probabilities: (B, H, W) and labels 0..1 -> (B,)."""
    probabilities = torch.sigmoid(logits)
    both = (probabilities * labels).sum((1, 2))
    return 1 - (both + 1) / ((probabilities + labels - probabilities * labels).sum((1, 2)) + 1)
