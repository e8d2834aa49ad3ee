"""How fast the machine multiplies, and how much each stage has to."""

from __future__ import annotations

import functools
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import onnx

from ...runtime.bundle import Bundle
from .engine_calls import Call, Shapes
from .flops import count_flop
from .trunk import load_session

SIZE = 2048
"""Rows and columns of the matrix product that measures the machine."""

STAGES = {
    "backbone": "backbone",
    "transformer_query": "query",
    "memory_read": "memory_read",
    "memory_read_several": "memory_read",
    "decoder": "decoder",
    "label_encoder": "label_encoder",
    "few_shot_residual": "few_shot",
    "few_shot_step": "few_shot",
    "memory_add": "memory_update",
    "memory_replace": "memory_update",
    "memory_swap": "memory_update",
    "memory_encode": "memory_update",
}
"""The stage in which each graph of a bundle is run."""


class MatrixProduct:
    """A square fp32 product in ONNX Runtime, the engine that runs the graphs."""

    def __init__(self, threads: int, size: int = SIZE) -> None:
        self._session = load_session(_product_model(size), threads)
        draw = np.random.default_rng(0).standard_normal
        self._feeds = {name: draw((size, size), np.float32) for name in ("a", "b")}
        self._gflop = 2 * size**3 / 1e9
        self._session.run(None, self._feeds)

    def rate(self) -> float:
        """GFLOP per second of one product."""
        start = time.perf_counter()
        self._session.run(None, self._feeds)
        return self._gflop / (time.perf_counter() - start)


def _product_model(size: int) -> bytes:
    a, b, c = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (size, size)) for name in ("a", "b", "c")
    )
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["a", "b"], ["c"])], "product", [a, b], [c])
    opset = onnx.helper.make_opsetid("", 20)
    content: bytes = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9).SerializeToString()
    return content


def stage_gflop(bundle: Bundle, calls: Counter[Call]) -> dict[str, float]:
    """GFLOP of all calls, by stage.

    The target model (induction) is a part of the decoder's graph.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for (name, shapes), count in calls.items():
        total[STAGES[name]] += count * _gflop(bundle.path(bundle.manifest.graphs[name].file), shapes)
    return dict(total)


@functools.cache
def _gflop(path: Path, shapes: Shapes) -> float:
    return count_flop(path, dict(shapes)) / 1e9
