"""What stays mapped of a bundle's weights."""

import mmap
import sys
import tempfile
from pathlib import Path

import pytest
from jointrt.benchmarks.services.shared_weights import WAYS, lay_beside, mapped_mb, measure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of each mapping")


def test_the_pages_of_a_mapped_file_are_counted(tmp_path):
    size = 4 << 20
    (tmp_path / "weights.data").write_bytes(bytes(size))
    assert mapped_mb(tmp_path) == (0, 0)
    with (tmp_path / "weights.data").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        assert held[::4096].count(0) == size // 4096
        assert sum(mapped_mb(tmp_path)) == pytest.approx(size / 1e6)
    assert mapped_mb(tmp_path) == (0, 0)


def test_graphs_run_alike_with_their_weights_beside_them(tiny_bundle, needs_openvino):
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        paths = lay_beside(tiny_bundle, Path(folder))
        held = {p.stem: p.with_suffix(".data").stat().st_size for p in paths}
        model = onnx.load(tiny_bundle.folder / tiny_bundle.manifest.graphs["decoder"].file)
        sizes = [len(tensor.raw_data) for tensor in model.graph.initializer]
        assert sum(n for n in sizes if n >= 1024) <= held["decoder"] < sum(sizes) + 4096 * len(sizes)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(tiny_bundle, Path(folder))
    assert found["ways"].keys() == WAYS.keys() and found["weights_mb"] > 5
    assert all(way["own_mb"] > 0 and way["mapped_shared_mb"] <= way["mapped_mb"] for way in found["ways"].values())
