"""The network against tensors that the released code recorded for seeded weights."""

import numpy as np
import pytest
import torch
from jointrt.model.config import ModelConfig
from jointrt.model.decoder import double
from jointrt.model.network import JointNet
from jointrt.model.target_model import apply_filter, descent_step, gather_taps, residuals, scatter_taps, to_matrix
from jointrt.model.transformer import instance_norm
from torch.nn import functional as F


@pytest.fixture(scope="module")
def found(paper_net, render):
    """Every recorded tensor, computed by our network."""
    frames, labels = render("single")

    def image(t):
        return torch.from_numpy(frames[t, :480, :832].copy()).permute(2, 0, 1)[None].float()

    def mask(t):
        return torch.from_numpy((labels[t, :480, :832] == 1).astype(np.float32))[None, None]

    net, out = paper_net, {}
    with torch.inference_mode():
        search = net.extract(image(13))
        memory = [net.extract(image(t)) for t in (0, 5, 10)]
        masks = [mask(0), *(F.avg_pool2d(mask(t), 9, 1, 4) for t in (5, 10))]
        E_ind, W, E_tra = net.label_encoder(torch.cat(masks))
        z_tra = torch.cat([m.x_tra for m in memory])[None]
        z_ind = torch.cat([m.x_ind for m in memory])[None]
        encoded3, encoded1 = net.transformer.encode(z_tra), net.transformer.encode(z_tra[:, :1])
        cross3 = net.transformer.decode(search.x_tra, encoded3, E_tra[None])
        cross1 = net.transformer.decode(search.x_tra, encoded1, E_tra[None, :1])
        first = (z_ind[:, :1], E_ind[None, :1], W[None, :1], torch.ones(1, 1))
        filter20 = net.target_model.fit(*first, None, 20)
        weights = torch.tensor([[0.82, 0.085, 0.095]])
        filter23 = net.target_model.fit(z_ind, E_ind[None], W[None], weights, filter20, 3)
        encodings3 = cross3 + net.target_model(search.x_ind, filter23)
        encodings1 = cross1 + net.target_model(search.x_ind, filter20)
        decoded = net.decoder.refine(encodings3, search.layers)
        layers = search.layers

        def planes(tokens):
            return tokens[0].transpose(1, 2).unflatten(2, (30, 52))

        for i in (0, 3):
            layer = layers[i][0].flatten(1)
            out[f"backbone_test.layer{i + 1}_stat"] = torch.stack((layer.mean(1), layer.std(1, correction=0)))
        out["backbone_test.layer1_c4_s4"] = layers[0][0, ::16, ::8, ::8]
        out["backbone_test.layer2_c4_s2"] = layers[1][0, ::16, ::4, ::4]
        out["backbone_test.layer3_c2"] = layers[2][0, ::32, ::2, ::2]
        out["backbone_test.layer4_c4"] = layers[3][0, ::32]
        out["features_test.target_model_c4"] = search.x_ind[0, ::32, ::2, ::2]
        out["features_test.adjustor_c4"] = search.x_tra[0, ::32, ::2, ::2]
        for name, tensor in (("E_ind", E_ind), ("E_tra", E_tra), ("sample_w", W)):
            out[f"label_encoder.{name}"] = tensor[:, ::2, ::2, ::2]
        out["transformer_encoder.enc3_c16"] = planes(encoded3)[:, ::64, ::2, ::2]
        out["transformer_encoder.enc1_c16"] = planes(encoded1)[0, ::64, ::2, ::2]
        out["transformer_decoder.cross3"] = cross3[0, :, ::2, ::2]
        out["transformer_decoder.cross1"] = cross1[0, :, ::2, ::2]
        out["filter.filter20"], out["filter.filter23"] = filter20[0, :, ::8], filter23[0, :, ::8]
        out["filter.filter1"] = net.target_model.fit(*first, None, 1)[0, :, ::8]
        out["decoder.layer4_dec_c4"] = decoded[4][0, ::32]
        out["decoder.layer1_dec_c4_s4"] = decoded[1][0, ::8, ::4, ::4]
        out["decoder.logits3"] = net.decoder(encodings3, layers)[0, 0, ::4, ::4]
        out["decoder.logits1_s4"] = net.decoder(encodings1, layers)[0, 0, ::4, ::4]
    return {name: tensor.numpy() for name, tensor in out.items()}


def test_every_recorded_tensor_is_reproduced(found, golden):
    with np.load(golden / "modules.npz") as recorded:
        assert set(found) == set(recorded.files)
        for name in recorded.files:
            expected = recorded[name]
            error = np.linalg.norm(found[name] - expected) / np.linalg.norm(expected)
            assert error <= (1e-4 if name.startswith("filter") else 1e-5), (name, error)


@pytest.mark.parametrize("name", ["paper", "lite"])
def test_named_configurations_round_trip_and_fit(name):
    config = ModelConfig.named(name)
    assert ModelConfig.from_dict(config.to_dict()) == config
    net = JointNet(config).eval()
    with torch.inference_mode():
        layers = net.backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in layers] == [
        (c, 64 // s, 96 // s) for c, s in zip(net.backbone.channels, (4, 8, 16, 32), strict=True)
    ]


def test_instance_norm_is_torchs():
    x = torch.randn(3, 7, 5, 6)
    ours = instance_norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).view_as(x)
    torch.testing.assert_close(ours, F.instance_norm(x))


def random_problem(dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    z, omega = draw(2, 3, 5, 6, 7), draw(2, 4, 7, 3, 3)
    return z, draw(2, 4, 3, 5, 6), draw(2, 4, 3, 5, 6), torch.tensor([0.3], dtype=dtype), omega


def test_the_filter_bank_is_a_convolution():
    z, _, _, _, omega = random_problem()
    for s in range(2):
        expected = F.conv2d(z[s].permute(0, 3, 1, 2), omega[s], padding=1)
        torch.testing.assert_close(apply_filter(z, to_matrix(omega), 3)[s].transpose(0, 1), expected)


def test_scatter_is_the_adjoint_of_gather():
    planes, values = torch.randn(1, 36, 2, 5, 6).double(), torch.randn(1, 4, 2, 5, 6).double()
    left = (gather_taps(planes, 3) * values).sum()
    torch.testing.assert_close(left, (planes * scatter_taps(values, 3)).sum())


def test_a_step_is_steepest_descent_by_autograd():
    z, E, weights, reg, omega = random_problem()
    start = to_matrix(omega).requires_grad_()

    def loss(matrix):
        data = residuals(z, E, weights, matrix, 3).square().sum((1, 2, 3, 4))
        return 0.5 * (data + (reg * matrix).square().sum((1, 2)))

    (gradient,) = torch.autograd.grad(loss(start).sum(), start)
    residual = residuals(z, E, weights, start.detach(), 3)
    after, residual_after = descent_step(z, weights, reg, start.detach(), residual, 3)
    alpha = ((start - after) / gradient).detach()
    torch.testing.assert_close(alpha, alpha[:, :1, :1].expand_as(alpha))
    torch.testing.assert_close(residual_after, residuals(z, E, weights, after, 3))
    # The line search is exact: the loss along the direction has its minimum there.
    lower, upper = (loss(start.detach() - f * alpha * gradient) for f in (0.99, 1.01))
    assert torch.all(loss(after) < lower)
    assert torch.all(loss(after) < upper)


def test_the_bicubic_double_for_training_is_that_for_inference() -> None:
    torch.manual_seed(5)
    inputs = torch.randn(2, 3, 6, 10)
    gradient = torch.randn(2, 3, 12, 20)
    results = []
    for upsample in (double, lambda x: F.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)):
        x = inputs.clone().to(memory_format=torch.channels_last).requires_grad_()
        y = upsample(x)
        y.backward(gradient)
        results.append((y.detach(), x.grad))
    torch.testing.assert_close(results[0], results[1])
    assert torch.equal(double(inputs), results[1][0])
