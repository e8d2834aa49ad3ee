"""Graphs compiled by Inductor, at once and ahead, against the same graphs as PyTorch runs them."""

import shutil

import numpy as np
import pytest
import torch
from jointrt.errors import BundleError, DeviceError, SettingsError
from jointrt.export.build.aoti import build_aoti_bundle, compile_graph
from jointrt.runtime.device.engines.aoti import AotiEngine, check_built, processor
from jointrt.runtime.device.engines.protocol import DeviceArray
from jointrt.runtime.device.engines.torch import torch_engines
from jointrt.runtime.manifest import AotiRecord, GraphRecord

pytestmark = pytest.mark.usefixtures("one_thread")
COMPILER = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "gcc", "clang"))), reason="Inductor needs a compiler: no g++"
)


def filled(engine, batch):
    """Arrays of an engine: inputs of small numbers, one slot of three held, outputs of zeros."""
    generator = torch.Generator().manual_seed(batch)
    tensors = {}
    for port in engine.ports.values():
        shape = [batch if isinstance(n, str) else n for n in port.shape]
        tensors[port.name] = 0.1 * torch.randn(shape, generator=generator)
    for name, slot in (("valid", 0), ("slot", 1)):
        if name in tensors:
            tensors[name] = torch.eye(3)[slot].repeat(batch, 1)
    for port in engine.graph.outputs():
        tensors[port.name].zero_()
    return tensors


def results(engine, graph, tensors, renewed=False):
    """What an engine makes of arrays, its own or in the inputs' place."""
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    if renewed:
        tensors |= {name: tensors[name.removesuffix("_next")] for name in tensors if name.endswith("_next")}
    arrays = {n: DeviceArray(t.data_ptr(), tuple(t.shape), "float32", t) for n, t in tensors.items()}
    engine.bind(arrays).enqueue(0)
    return {port.name: tensors[port.name].numpy() for port in graph.outputs()}


@COMPILER
def test_a_memory_update_built_ahead_is_pytorchs(net, tmp_path):
    """For one object and for several; with results of their own and in place."""
    eager = torch_engines(net, 3, "fp32", "cpu")["memory_update"]
    functions = []
    for most in (None, 4):
        path = tmp_path / f"{most}.pt2"
        compile_graph(eager, path, "cpu", most)
        functions.append(torch._inductor.aoti_load_package(str(path), run_single_threaded=True))
    inputs, outputs = (tuple(ports) for ports in (eager.graph.inputs(), eager.graph.outputs()))
    ahead = AotiEngine("memory_update", GraphRecord(file="a.pt2", inputs=inputs, outputs=outputs), *functions, 4)
    for batch in (1, 2, 4):
        tensors = filled(eager, batch)
        expected = results(eager, eager.graph, tensors)
        for renewed in (False, True):
            found = results(ahead, eager.graph, tensors, renewed)
            for name, array in expected.items():
                np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


@COMPILER
def test_a_memory_read_compiled_at_once_is_pytorchs(net):
    eager, compiled = (torch_engines(net, 3, "fp32", "cpu", compiled=c)["memory_read"] for c in (False, True))
    for batch in (1, 2, 3):
        tensors = filled(eager, batch)
        expected, found = (results(engine, eager.graph, tensors) for engine in (eager, compiled))
        np.testing.assert_allclose(found["E_tra_star"], expected["E_tra_star"], rtol=1e-4, atol=1e-6)


def test_packages_of_another_machine_are_refused():
    here = AotiRecord(torch=torch.__version__, device="cpu", processor=processor("cpu"), objects=4)
    check_built(here, "cpu", "joint-aoti")
    for change in ({"torch": "1.0"}, {"device": "cuda"}, {"processor": "sm90"}):
        with pytest.raises(BundleError, match=r"joint-aoti was built by torch .* build it here"):
            check_built(here.model_copy(update=change), "cpu", "joint-aoti")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"precision": "int8"}, SettingsError, "expected fp16 or fp32"),
        ({"memory": 0}, SettingsError, "memory is 0"),
        ({"max_objects": 1}, SettingsError, "expected 2 to 255"),
        ({"device": "tpu"}, DeviceError, "cannot be built for"),
    ],
)
def test_what_cannot_be_built_is_refused(tiny_bundle, tmp_path, change, error, message):
    options = {"precision": "fp32", "memory": 3, "max_objects": 4, "device": "cpu", **change}
    with pytest.raises(error, match=message):
        build_aoti_bundle(tiny_bundle, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())
