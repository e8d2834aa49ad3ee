"""The trunk alone, out of a bundle's backbone: the measure that frames are compared with.

ONNX Runtime runs every node of a file, needed or not, so the adjusters' outputs and all that only they need are taken
out. The graph's message is edited directly: timing a bundle must not need the `onnx` package.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...runtime.backends import split_backend
from ...runtime.bundle import Bundle
from ...runtime.cpu.onnxruntime_engine import import_onnxruntime
from ...runtime.cpu.openvino_engine import compile_model, shared_core

_GRAPH = 7
"""Field number of `ModelProto.graph`."""
_NODE = 1
"""Field number of `GraphProto.node`."""
_OUTPUT = 12
"""Field number of `GraphProto.output`."""
_NAME = 1
"""Field number of `ValueInfoProto.name` and of `NodeProto.input`."""
_NODE_OUTPUT = 2
"""Field number of `NodeProto.output`."""


def load_trunk(bundle: Bundle, threads: int, backend: str) -> Callable[[], object]:
    """What runs the trunk alone, once per call, on one crop.

    Args:
        bundle: of ONNX graphs.
        threads: to run on.
        backend: "onnxruntime", or "openvino" with a precision behind a colon where it is not fp32.
    """
    record = bundle.manifest.graphs["backbone"]
    model = without_outputs(bundle.path(record.file).read_bytes(), {"x_tra", "x_ind"})
    shape = [1 if isinstance(n, str) else n for n in record.inputs[0].shape]
    crop = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    name, precision = split_backend(backend)
    if name == "openvino":
        request = load_request(model, shape, threads, precision or "fp32")
        return lambda: request.infer([crop], share_inputs=True)
    session = load_session(model, threads)
    return lambda: session.run(None, {record.inputs[0].name: crop})


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


def without_outputs(model: bytes, names: set[str]) -> bytes:
    """An ONNX model's bytes less the graph outputs of the given names and the nodes that only they need."""
    out = bytearray()
    for field, raw, value in _fields(model):
        if field != _GRAPH:
            out += raw
            continue
        parts = [part for part in _fields(value) if part[0] != _OUTPUT or not names & _strings(part[2], _NAME)]
        needed = set().union(*(_strings(value, _NAME) for field, _, value in parts if field == _OUTPUT))
        kept = []
        # Nodes come in the order in which they run: backwards, whoever gives what is needed is needed.
        for field, raw, value in reversed(parts):
            if field == _NODE and not needed & _strings(value, _NODE_OUTPUT):
                continue
            if field == _NODE:
                needed |= _strings(value, _NAME)
            kept.append(raw)
        graph = b"".join(reversed(kept))
        out += _varint(_GRAPH << 3 | 2) + _varint(len(graph)) + graph
    return bytes(out)


def _strings(message: bytes, number: int) -> set[str]:
    return {value.decode() for field, _, value in _fields(message) if field == number}


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Field number, the field's bytes with their tag, and the payload of length-delimited fields."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position)
        kind, payload = tag & 7, b""
        if kind == 0:
            _, position = _read_varint(message, position)
        elif kind == 1:
            position += 8
        elif kind == 5:
            position += 4
        elif kind == 2:
            length, position = _read_varint(message, position)
            payload = message[position : position + length]
            position += length
        else:
            raise ValueError(f"wire type {kind} is not used by ONNX")
        yield tag >> 3, message[start:position], payload


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))
