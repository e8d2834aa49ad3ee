"""Convolutions that take bias, addition and ReLU along, against the same network without."""

import dataclasses

import pytest
import torch
from jointrt.model.config import ModelConfig
from jointrt.model.network import JointNet
from jointrt.runtime.device.engines.epilogues import ConvReLU, PixelwiseLinear
from jointrt.runtime.device.engines.functions import arithmetic
from jointrt.runtime.device.engines.torch import torch_engines
from torch import nn

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a torch with CUDA")
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]


def network(name):
    """Random weights whose normalisations do something."""
    torch.manual_seed(3)
    net = JointNet(dataclasses.replace(ModelConfig.named(name), crop_size=(64, 96)))
    for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        nn.init.uniform_(norm.weight, 0.2, 0.6)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    return net


def inputs_of(engine, device, batch):
    torch.manual_seed(5)
    for port in engine.graph.inputs():
        value = torch.rand([batch if isinstance(n, str) else n for n in port.shape], device=device)
        value = 255 * value if port.name == "crop" else value
        half = engine.ports[port.name].dtype == "float16"
        value = value.half() if half else value
        yield value.contiguous(memory_format=torch.channels_last) if port.name.startswith("layer") else value


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", ["paper", "lite"])
@pytest.mark.parametrize("device", DEVICES)
@torch.no_grad()
def test_graphs_are_those_without(device, name, batch):
    net = network(name)
    plain, fused = (torch_engines(net, 3, "fp16", device, epilogues=on) for on in (False, True))
    kinds = [type(module) for engine in fused.values() for module in engine.graph.modules()]
    assert ConvReLU in kinds and PixelwiseLinear in kinds
    for graph in ("backbone", "label_encoder", "decoder"):
        if device == "cuda":
            # What the allocator gives next has held NaN.
            poison = torch.full((1 << 24,), torch.nan, device=device)
            del poison
        with arithmetic():
            expected, found = (
                engines[graph].graph(*inputs_of(engines[graph], device, batch)) for engines in (plain, fused)
            )
        pairs = zip(expected, found, strict=True) if isinstance(expected, tuple) else [(expected, found)]
        for one, other in pairs:
            assert one.dtype == other.dtype and one.shape == other.shape
            assert (one - other).float().norm() < 2e-3 * one.float().norm(), graph


def test_fp32_keeps_its_convolutions():
    """The fused calls may compute in TF32."""
    engines = torch_engines(network("lite"), 3, "fp32", "cpu")
    assert not any(isinstance(m, ConvReLU) for engine in engines.values() for m in engine.graph.modules())
