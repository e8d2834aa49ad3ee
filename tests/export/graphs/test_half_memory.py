"""Memory and few-shot learner with fp16 operands, as the GPU multiplies them, against fp32."""

import dataclasses

import pytest
import torch
from jointrt.export.graphs.fixed_memory import FixedResidualGraph, FixedStepGraph
from jointrt.export.graphs.half_memory import (
    HalfMemoryRead,
    HalfMemoryUpdate,
    HalfQuery,
    HalfResidual,
    HalfStep,
    half_product,
)
from jointrt.export.parity.reference import geometry_of, reference_defaults
from jointrt.model.config import ModelConfig
from jointrt.model.network import JointNet
from jointrt.runtime.device.engines.torch import torch_engines
from jointrt.runtime.device.network import DeviceNetwork, FewShotLearner
from jointrt.runtime.device.replay import Lane
from jointrt.runtime.settings import Settings
from torch._subclasses.fake_tensor import FakeTensorMode

pytestmark = pytest.mark.usefixtures("one_thread")
CAPACITY = 4


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return JointNet(dataclasses.replace(ModelConfig.named("lite"), crop_size=(64, 96))).eval().requires_grad_(False)


def frames(net, count):
    """Features of frames that resemble one another, as a video's do."""
    torch.manual_seed(1)
    n, C = 24, net.config.feature_channels
    common = torch.randn(1, n, C)
    return [(common + 0.5 * torch.randn(1, n, C)).half() for _ in range(count)]


@torch.no_grad()
def remember(query, update, z, slot, bank, valid):
    _, key, C, D = query(z)
    one_hot = torch.zeros(1, CAPACITY)
    one_hot[0, slot] = 1
    *bank, keys = update(*bank, valid, one_hot, z, key, C, D)
    return bank, keys, valid.maximum(one_hot)


def test_sixty_replacements_leave_no_trace(net):
    """Numerator over denominator of every slot after them, against those of a memory filled once.

    What entered in fp16 leaves in fp16: the error stays that of the operands' rounding and does not grow.
    """
    query, update, read = (kind(net, CAPACITY) for kind in (HalfQuery, HalfMemoryUpdate, HalfMemoryRead))
    seen = frames(net, CAPACITY + 60)
    n, C, c = 24, net.config.feature_channels, net.config.key_channels

    def empty():
        return [torch.zeros(1, CAPACITY, n, k, dtype=d) for k, d in ((C, torch.half), (c, torch.half))] + [
            torch.zeros(1, CAPACITY, n, k) for k in (C, 1)
        ]

    bank, valid, stored = empty(), torch.zeros(1, CAPACITY), {}
    for t, z in enumerate(seen):
        slot = t if t < CAPACITY else 1 + t % (CAPACITY - 1)
        bank, keys, valid = remember(query, update, z, slot, bank, valid)
        stored[slot] = z
    attended = bank[2] / bank[3]

    fresh, valid = empty(), torch.zeros(1, CAPACITY)
    for slot in range(CAPACITY):
        fresh, _, valid = remember(query, update, stored[slot], slot, fresh, valid)
    again = fresh[2] / fresh[3]
    assert (attended - again).norm() / again.norm() < 1e-6

    # Against eq. 2 in fp32, from the same rounded features.
    tokens = torch.cat([stored[s].float() for s in range(CAPACITY)], 1)
    exact = net.transformer.self_attention(tokens, tokens, tokens).view_as(again)
    assert (attended - exact).norm() / exact.norm() < 1e-4

    E = torch.rand(1, CAPACITY, n, net.config.encoding_channels)
    x = frames(net, 1)[0]
    found = read(query(x)[0], keys, E.half(), valid)
    encoded = (exact + tokens.view_as(exact)).flatten(0, 1)
    encoded = (encoded - encoded.mean(1, keepdim=True)) / (encoded.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    wanted = net.transformer.cross_attention(
        net.transformer.query(x.float().transpose(1, 2).unflatten(2, net.config.feature_size)),
        encoded.flatten(0, 1)[None],
        E.flatten(1, 2),
    )
    assert (found - wanted).norm() / wanted.norm() < 2e-3


def test_a_query_unlike_every_stored_key_reads_their_average_while_slots_are_empty(net):
    """Cosines of -0.55 to -0.95 beside slots without a frame, against softmax in fp64 over what is stored."""
    torch.manual_seed(5)
    n, c, D = 24, net.config.key_channels, net.config.encoding_channels
    read = HalfMemoryRead(net, CAPACITY)
    query = torch.nn.functional.normalize(torch.randn(1, n, c), dim=-1)
    centre = torch.nn.functional.normalize(torch.randn(1, 1, c), dim=-1)
    query = torch.nn.functional.normalize(centre + 0.05 * query, dim=-1)
    keys = torch.nn.functional.normalize(-centre[:, None] + 0.05 * torch.randn(1, CAPACITY, n, c), dim=-1)
    query, keys = ((read.key_scale * x).half() for x in (query, keys))
    E, valid = torch.rand(1, CAPACITY, n, D).half(), torch.tensor([[1.0, 0, 0, 0]])
    keys[:, 1:] = torch.nan
    found = read(query, keys, E, valid)
    logits = query.double() @ keys[:, 0].double().transpose(1, 2)
    assert logits.max() * net.config.temperature < -0.48
    wanted = logits.softmax(-1) @ E[:, 0].double()
    assert (found - wanted).norm() / wanted.norm() < 2e-3


def samples(net):
    torch.manual_seed(3)
    config = net.config
    n, C, D = 24, config.feature_channels, config.encoding_channels
    z = torch.randn(1, CAPACITY, n, C) / (9 * C) ** 0.5
    E, W = torch.rand(1, CAPACITY, n, D), torch.randn(1, CAPACITY, n, D)
    return z.half(), E, W, torch.tensor([[0.4, 0.3, 0.3, 0.0]]), torch.zeros(1, 9 * D, C)


@pytest.mark.parametrize("steps", [3, 20])
def test_few_shot_steps_in_half_precision_end_where_those_in_fp32_do(net, steps):
    half = [kind(net, CAPACITY) for kind in (HalfResidual, HalfStep)]
    whole = [kind(net, CAPACITY) for kind in (FixedResidualGraph, FixedStepGraph)]
    z, *rest, start = samples(net)
    filters = []
    for (residual_of, step), features in ((half, z), (whole, z.float())):
        weights, residual = residual_of(features, *rest, start)
        omega = start
        for _ in range(steps):
            omega, residual = step(features, weights, omega, residual)
        filters.append(omega)
    assert (filters[0] - filters[1]).norm() / filters[1].norm() < 3e-4


@pytest.mark.parametrize("steps", [3, 20])
def test_the_loop_at_fixed_capacity_learns_what_the_network_learns(net, steps):
    settings = Settings.resolve(reference_defaults(memory=CAPACITY), threads=1)
    engines = torch_engines(net, CAPACITY, "fp32", "cpu")
    network = DeviceNetwork(engines, geometry_of(net.config), settings, Lane(torch.device("cpu")))
    learner = FewShotLearner(network, 1, steps)
    h, w = net.config.feature_size
    for seed in (0, 1):
        torch.manual_seed(seed)
        z, E, W = torch.randn(1, h * w, 128) / 34, torch.rand(1, h * w, 16), torch.randn(1, h * w, 16)
        omega = learner.learn(z, E, W)
        maps = [t.transpose(1, 2).unflatten(2, (h, w))[:, None] for t in (z, E, W)]
        expected = net.target_model.fit(*maps, torch.ones(1, 1), None, steps)
        found = omega.unflatten(1, (3, 3, -1)).permute(0, 3, 4, 1, 2)
        assert (found - expected).norm() / expected.norm() < 1e-3


def test_half_products_are_summed_in_fp32():
    a, b = torch.full((1, 1, 4096), 1.0).half(), torch.full((1, 4096, 1), 1 + 2**-10).half()
    assert half_product(a, b).item() == 4100
    with FakeTensorMode():
        on_gpu = [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in (a, b)]
        assert half_product(*on_gpu).dtype == torch.float32
