import shutil

import pytest
from jointrt.errors import BundleError, DeviceError, SettingsError
from jointrt.export.build import tensorrt as tensorrt_build
from jointrt.export.build.tensorrt import BuildOptions, EngineBuilder, parse_targets, write_typed
from jointrt.export.graphs.few_shot_loop import write_loops
from jointrt.runtime.device.cuda_driver import CudaDevice, CudaDriver, query_cuda_driver

DRIVER = query_cuda_driver()
OPTIONS = {"backend": "tensorrt-rtx", "precision": "fp16", "targets": (89,), "max_objects": 4, "memory": 3}


@pytest.fixture(scope="module")
def traced(fixed_graphs, tmp_path_factory):
    """Every graph in fp32: (file, record)."""
    folder = tmp_path_factory.mktemp("traced")
    for record in fixed_graphs.manifest.graphs.values():
        shutil.copyfile(fixed_graphs.path(record.file), folder / record.file)
    records = fixed_graphs.manifest.graphs | write_loops(folder, fixed_graphs.manifest.graphs)
    return [(folder / record.file, record) for record in records.values()]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_every_graph_builds_for_another_gpu(traced, precision, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra tensorrt-rtx)")
    builder = EngineBuilder(BuildOptions.check(**OPTIONS | {"precision": precision}), tmp_path / "cache")
    types = set()
    for source, untyped in traced:
        path = tmp_path / source.name
        record = write_typed(source, untyped, precision, path)
        builder.build(path, tmp_path / record.file)
        assert (tmp_path / record.file).stat().st_size > 10_000

        # The parser's own view of the typed graph against the manifest's table.
        network = builder.builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        assert trt.OnnxParser(network, builder.logger).parse_from_file(str(path))
        seen = [network.get_input(i) for i in range(network.num_inputs)]
        seen += [network.get_output(i) for i in range(network.num_outputs)]
        kinds = {"float16": trt.DataType.HALF, "float32": trt.DataType.FLOAT}
        ports = (*record.inputs, *record.outputs)
        assert [t.name for t in seen] == [p.name for p in ports]
        for tensor, port in zip(seen, ports, strict=True):
            assert tensor.dtype == kinds[port.dtype]
            types.add(port.dtype)
            assert tuple(tensor.shape) == tuple(-1 if isinstance(n, str) else n for n in port.shape)
    assert builder.record().compute_capabilities == (89,)
    assert types == ({"float16", "float32"} if precision == "fp16" else {"float32"})


def test_a_graph_it_cannot_read_is_refused_with_its_words(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra tensorrt-rtx)")
    (tmp_path / "g.onnx").write_bytes(b"nothing")
    builder = EngineBuilder(BuildOptions.check(**OPTIONS), tmp_path / "cache")
    with pytest.raises(BundleError, match=r"g\.onnx is not understood by tensorrt-rtx"):
        builder.build(tmp_path / "g.onnx", tmp_path / "g.engine")


def test_an_unknown_gpu_is_refused(tmp_path):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra tensorrt-rtx)")
    with pytest.raises(DeviceError, match="does not build for sm90"):
        EngineBuilder(BuildOptions.check(**OPTIONS | {"targets": (90,)}), tmp_path / "cache")


def test_this_machine_s_gpu_is_refused_where_the_library_does_not_know_it(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed (extra tensorrt-rtx)")
    hopper = CudaDriver((13, 0), (CudaDevice("Hopper", (9, 0), 1 << 36),), None)
    monkeypatch.setattr(tensorrt_build, "query_cuda_driver", lambda: hopper)
    with pytest.raises(DeviceError, match="does not build for sm90"):
        EngineBuilder(BuildOptions.check(**OPTIONS | {"targets": ()}), tmp_path / "cache")


@pytest.mark.skipif(DRIVER.problem is None, reason="this machine has a GPU")
@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_without_a_driver_building_for_this_machine_is_refused(backend, tmp_path):
    options = BuildOptions.check(**OPTIONS | {"backend": backend, "targets": ()})
    with pytest.raises(DeviceError, match="--target sm89"):
        EngineBuilder(options, tmp_path / "cache")


@pytest.mark.parametrize("change", [{"backend": "trt"}, {"precision": "int4"}, {"max_objects": 0}, {"memory": 999}])
def test_settings_out_of_range_are_refused(change):
    with pytest.raises(SettingsError):
        BuildOptions.check(**OPTIONS | change)


def test_targets_are_read():
    assert parse_targets("sm89, SM_120,sm89") == (89, 120)
    with pytest.raises(SettingsError, match="sm89"):
        parse_targets("ada")
