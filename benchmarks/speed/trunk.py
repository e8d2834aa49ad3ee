"""The trunk alone, out of a bundle's backbone: the measure that frames are compared with. Needs the `onnx` package."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...runtime.backends import Choice, Name
from ...runtime.bundle import Bundle
from ...runtime.cpu.onnxruntime_engine import import_onnxruntime
from ...runtime.cpu.openvino_engine import compile_model, shared_core

ADJUSTED = ("x_tra", "x_ind")
"""Outputs of the backbone that are no layers of the trunk."""


def load_trunk(bundle: Bundle, threads: int, choice: Choice) -> Callable[[], object]:
    """What runs the trunk alone, once per call, on one crop.

    Args:
        bundle: of ONNX graphs.
        threads: to run on.
        choice: what runs the bundle's graphs.
    """
    record = bundle.manifest.graphs["backbone"]
    model = trunk_model(bundle.path(record.file))
    shape = [1 if isinstance(n, str) else n for n in record.inputs[0].shape]
    crop = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    if choice.name is Name.OPENVINO:
        request = load_request(model, shape, threads, choice.precision)
        return lambda: request.infer([crop], share_inputs=True)
    session = load_session(model, threads)
    return lambda: session.run(None, {record.inputs[0].name: crop})


def trunk_model(backbone: Path) -> bytes:
    """A backbone less the adjusters: ONNX Runtime runs every node of a file, needed or not."""
    model = onnx.load(str(backbone))
    layers = [value.name for value in model.graph.output if value.name not in ADJUSTED]
    content: bytes = onnx.utils.Extractor(model).extract_model(["crop"], layers).SerializeToString()
    return content


def load_request(model: bytes, shape: list[int], threads: int, precision: str) -> Any:
    """A request to OpenVINO of a model's bytes with one input of this shape, compiled as a bundle's engines are."""
    read = shared_core().read_model(io.BytesIO(model))
    read.reshape(shape)
    return compile_model(read, threads, precision, convolutions=True).create_infer_request()


def load_session(model: bytes, threads: int) -> Any:
    """A session of a model's bytes on the CPU; like an engine of a bundle it does not spin on cores it leaves."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
