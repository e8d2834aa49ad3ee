"""Smaller files: weights that fp16 holds exactly are stored in fp16 and computed with in fp32.

Rounding the weights changes the network a little, so it is asked for, and happens before anything is compared: the
rounded network is the bundle's reference, and its weights are kept with it. Normalisations are folded into their
convolutions first, since the exporter would fold them afterwards and the products would no longer fit.
"""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

Net = TypeVar("Net", bound=nn.Module)

_MIN_ELEMENTS = 256


@torch.no_grad()
def rounded(net: Net) -> Net:
    """A copy with normalisations folded and every weight rounded to fp16 (lambda excepted)."""
    net = copy.deepcopy(net)
    for module in net.modules():
        for first, second in itertools.pairwise(module.children()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                _fold(first, second)
    for name, parameter in net.named_parameters():
        if not name.endswith("filter_reg"):
            parameter.copy_(parameter.half().float())
    return net


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Move a normalisation's scale into the convolution before it, its offset into its own bias."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight / torch.sqrt(variance + norm.eps)
    conv.weight.mul_(scale[:, None, None, None])
    offset = norm.bias - mean * scale
    if conv.bias is not None:
        offset += conv.bias * scale
        conv.bias.zero_()
    norm.weight.fill_(1)
    norm.bias.copy_(offset)
    mean.zero_()
    variance.fill_(1 - norm.eps)


def store_half(path: Path) -> None:
    """Rewrite a graph's file: every large fp32 initializer that fp16 holds exactly becomes fp16 and a Cast."""
    model = onnx.load(str(path))
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(initializer)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < _MIN_ELEMENTS or not np.array_equal(half.astype(np.float32), values):
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    kept = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *kept])
    # A value's declared type outlives its initializer.
    known = [value for value in model.graph.value_info if value.name not in {node.output[0] for node in casts}]
    del model.graph.value_info[:]
    model.graph.value_info.extend(known)
    onnx.save(model, str(path))
