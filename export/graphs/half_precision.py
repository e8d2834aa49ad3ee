"""What is fp32 and what fp16 in a bundle of half precision, whatever runs it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from ...runtime.device.engines.protocol import DType

_SINGLE_PORTS = frozenset(
    [
        *("crop", "mask", "logits", "valid", "slot", "sample_weights", "omega", "weights", "residual"),
        *("E_ind", "W", "E_ind_all", "W_all", "C", "D"),
    ]
)
_NARROW = 8
"""Input channels from which on tensor cores are used, and over which a convolution's rounding errors average out."""


def port_dtype(name: str, precision: str) -> DType:
    """The element type of a port in a bundle of "fp16" or "fp32".

    Frames, weights, the few-shot learner's residual and filter, and all sums carried on are fp32 in either.
    """
    stem = name.removesuffix("_next")
    if stem.endswith("_all") and stem not in _SINGLE_PORTS:
        stem = stem.removesuffix("_all")
    return "float32" if precision == "fp32" or stem in _SINGLE_PORTS else "float16"


def single_convolutions(shapes: Iterable[tuple[int, int]]) -> int:
    """How many of a graph's first convolutions stay fp32: those up to a depthwise one at its very beginning.

    A depthwise filter takes differences between the few values that it sees, so that what is rounded before it grows:
    `lite`'s stem makes most of its trunk's error in half precision, and is cheap.

    Args:
        shapes: input channels per group, and groups, in the order of computation.
    """
    leading = list(itertools.takewhile(lambda shape: shape[0] < _NARROW, shapes))
    while leading and leading[-1][1] == 1:
        leading.pop()
    return len(leading)
