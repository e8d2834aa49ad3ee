"""A bundle that is not whole is refused, with the command that mends it."""

import json
import shutil

import pytest
from jointrt.errors import BundleError
from jointrt.runtime.bundle import Bundle
from jointrt.runtime.segmenter import Segmenter


@pytest.fixture
def copy(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle.folder, tmp_path / "copy")


def edit(folder, **changes):
    path = folder / "manifest.json"
    values = json.loads(path.read_text())
    for key, value in changes.items():
        target = values
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(json.dumps(values))


def refused(folder, match):
    with pytest.raises(BundleError, match=match) as caught:
        Segmenter.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_whole_bundle_opens(copy, tiny_bundle):
    assert Bundle.open(copy).fingerprint == tiny_bundle.fingerprint


def test_a_missing_file(copy):
    (copy / "decoder.onnx").unlink()
    assert "jointrt export" in refused(copy, r"lacks decoder\.onnx")


def test_an_extra_file(copy):
    (copy / "other.onnx").write_bytes(b"x")
    refused(copy, r"holds other\.onnx")


def test_a_changed_byte(copy):
    path = copy / "decoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(copy, "it was changed")


def test_a_newer_format(copy):
    edit(copy, version=2)
    assert "pip install --upgrade" in refused(copy, "format version 2")


def test_no_json(copy):
    (copy / "manifest.json").write_text("{")
    refused(copy, "is not JSON")


def test_no_manifest(copy):
    (copy / "manifest.json").unlink()
    refused(copy, r"holds no manifest\.json")


def test_an_unknown_field(copy):
    edit(copy, surprise=1)
    refused(copy, "surprise")


@pytest.mark.parametrize("name", ["../decoder.onnx", "/etc/passwd", "a/b.onnx", ".hidden", ""])
def test_a_path_that_leaves_the_bundle(copy, name):
    edit(copy, graphs__decoder__file=name)
    refused(copy, "file")


def test_a_link(copy, tmp_path):
    target = tmp_path / "elsewhere.onnx"
    (copy / "decoder.onnx").rename(target)
    (copy / "decoder.onnx").symlink_to(target)
    refused(copy, "not a plain file")


def test_shapes_that_do_not_fit(copy):
    ports = json.loads((copy / "manifest.json").read_text())["graphs"]["decoder"]["inputs"]
    ports[0]["shape"][-1] += 1
    edit(copy, graphs__decoder__inputs=ports)
    refused(copy, "has shape")


def test_records_of_other_graphs(copy):
    path = copy / "manifest.json"
    values = json.loads(path.read_text())
    graphs = values["graphs"]
    graphs["memory_add"], graphs["memory_encode"] = graphs["memory_encode"], graphs["memory_add"]
    path.write_text(json.dumps(values))
    refused(copy, "'memory_add' takes C, D, z, expected .*another graph's record")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("stride", 8, "at a stride of 8"), ("filter_size", 5, "model's 3"), ("search_factor", 3.0, "5.0")],
)
def test_a_geometry_that_is_not_the_graphs(copy, field, value, said):
    edit(copy, **{f"geometry__{field}": value})
    refused(copy, said)


def test_a_filter_of_another_size_than_the_graphs_have(copy):
    """The manifest agrees with itself; the graphs do not."""
    edit(copy, geometry__filter_size=5, model__filter_size=5)
    refused(copy, "a filter of 5x5 has 400 rows")


def test_files_that_changed_places(copy):
    path = copy / "manifest.json"
    values = json.loads(path.read_text())
    a, b = values["graphs"]["memory_add"], values["graphs"]["memory_replace"]
    a["file"], b["file"] = b["file"], a["file"]
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"inputs are .*, the manifest says"):
        Segmenter.load(copy, threads=1)


def test_an_unknown_name():
    with pytest.raises(BundleError, match="no bundle called"):
        Bundle.open("no-such-bundle")


def test_a_manifest_without_a_graph_or_with_another_crop(copy):
    before = (copy / "manifest.json").read_text()
    values = json.loads(before)
    del values["graphs"]["decoder"]
    (copy / "manifest.json").write_text(json.dumps(values))
    assert "jointrt export" in refused(copy, "lists no graph decoder")
    (copy / "manifest.json").write_text(before)
    edit(copy, geometry__crop_size=[96, 128])
    assert "jointrt export" in refused(copy, "geometry's crop_size is")
    edit(copy, model__crop_size=[96, 128])
    assert "jointrt export" in refused(copy, r"shape \('B', 3, 64, 128\), but crops are 96x128")
