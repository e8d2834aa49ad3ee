"""The losses against the Jaccard index of sets and the runtime's merge, and gradients against finite differences."""

from itertools import pairwise

import numpy as np
import torch
from jointrt.model.config import ModelConfig
from jointrt.model.network import JointNet
from jointrt.model.target_model import TargetModel
from jointrt.runtime.tracking.aggregation import soft_aggregation
from jointrt.training.losses import false_alarm, lovasz_hinge, lovasz_softmax
from jointrt.training.mini_sequence import MiniSequenceNet, merge_logits
from torch.nn import functional as F


def jaccard_loss(wrong: set[int], true: set[int]) -> float:
    """1 - J of the prediction that errs exactly on `wrong`."""
    predicted = true ^ wrong
    union = predicted | true
    return 1 - len(predicted & true) / len(union) if union else 0.0


def extension(errors: list[float], true: set[int]) -> float:
    """The Lovasz extension as its definition has it: the integral of the set function over the level sets."""
    levels = sorted({0.0, *errors})
    return sum(
        (high - low) * jaccard_loss({i for i, e in enumerate(errors) if e >= high}, true)
        for low, high in pairwise(levels)
    )


def test_lovasz_losses_are_the_extension_of_the_jaccard_loss() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, 9, dtype=torch.float64)
    labels = (torch.rand(20, 9) < 0.4).double()
    labels[0] = 0
    labels[1] = 1
    softmax_errors = (labels - logits.sigmoid()).abs()
    hinge_errors = F.elu(1 - logits * (2 * labels - 1)) + 1
    for loss, errors in ((lovasz_softmax, softmax_errors), (lovasz_hinge, hinge_errors)):
        expected = [
            extension(e, {i for i, y in enumerate(row) if y})
            for e, row in zip(errors.tolist(), labels.tolist(), strict=True)
        ]
        torch.testing.assert_close(loss(logits, labels), torch.tensor(expected, dtype=torch.float64))


def test_lovasz_softmax_of_certain_predictions_is_one_minus_jaccard() -> None:
    labels = torch.tensor([[1.0, 1, 1, 0, 0, 0]])
    logits = torch.tensor([[1e3, -1e3, 1e3, 1e3, -1e3, -1e3]])
    torch.testing.assert_close(lovasz_softmax(logits, labels), torch.tensor([0.5]))


def test_gradients_through_the_steepest_descent() -> None:
    torch.manual_seed(1)
    model = TargetModel(3).double()
    z, E, W = (torch.randn(1, 2, c, 3, 4, dtype=torch.float64, requires_grad=True) for c in (3, 2, 2))
    weights = torch.tensor([[0.7, 0.3]], dtype=torch.float64)

    def learned(z: torch.Tensor, E: torch.Tensor, W: torch.Tensor, reg: torch.Tensor) -> torch.Tensor:
        del model.filter_reg
        model.filter_reg = reg
        return model(z[:, 0], model.fit(z, E, W, weights, None, 2))

    reg = torch.full((1,), 0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(learned, (z, E, W, reg))


def test_objects_compete_as_at_run_time() -> None:
    scores = torch.from_numpy(np.random.default_rng(3).normal(0, 6, (2, 3, 5, 7)).astype(np.float32))
    merged = torch.sigmoid(merge_logits(scores))
    for ours, given in zip(merged, scores, strict=True):
        theirs = torch.from_numpy(soft_aggregation(given.numpy())[1:])
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    torch.testing.assert_close(merge_logits(scores[:, :1] / 3), 2 * scores[:, :1] / 3, atol=1e-3, rtol=1e-4)


def test_certain_logits_have_finite_gradients() -> None:
    logits = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0])
    pairs = torch.cartesian_prod(logits, logits).T[None, :, :, None].clone().requires_grad_()
    merge_logits(pairs).sum().backward()
    assert pairs.grad is not None
    assert torch.isfinite(pairs.grad).all()


def test_false_alarms_are_the_mean_of_the_worst_pixels() -> None:
    logits = torch.randn(2, 20, 50, generator=torch.Generator().manual_seed(4)) * 3
    worst = np.sort(logits.numpy().reshape(2, -1), axis=1)[:, -10:].astype(np.float64)
    hinge = np.where(worst > -1, 2 + worst, np.exp(1 + worst))
    torch.testing.assert_close(false_alarm(logits), torch.tensor(hinge.mean(1), dtype=torch.float32))


def test_gradient_of_a_whole_mini_sequence() -> None:
    torch.manual_seed(2)
    config = ModelConfig(
        backbone="efficientnet_lite0", feature_channels=8, key_channels=4, decoder_width=2, crop_size=(64, 64)
    )
    unrolled = MiniSequenceNet(JointNet(config), 3, 2, train_trunk=False).double().eval()
    images = torch.rand(1, 3, 3, 64, 64, dtype=torch.float64) * 255
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.float64)
    masks[:, 0, 20:50, 10:40] = 1
    masks[:, 1, 5:30, 45:60] = 1
    gates = torch.ones(1, 2, 2, dtype=torch.float64)
    direction = {n: torch.randn_like(p) for n, p in unrolled.net.named_parameters() if p.requires_grad}
    parameters = dict(unrolled.net.named_parameters())

    def loss() -> torch.Tensor:
        output = unrolled(images, masks, gates)
        return lovasz_hinge(output.logits[0, :, -1], masks[0]).sum() + output.similarity.sum()

    gradients = torch.autograd.grad(loss(), [parameters[n] for n in direction], allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction.values(), strict=True) if g is not None)
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for name, d in direction.items():
                parameters[name].add_(sign * step * d)
            values.append(loss().item())
    assert abs((values[0] - values[1]) / (2 * step) - slope) <= 1e-3 * abs(slope)
