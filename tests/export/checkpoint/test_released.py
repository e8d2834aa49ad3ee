import contextlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jointrt.errors import OutputError, WeightsError
from jointrt.export.checkpoint.released import find_state_dict, from_released, import_checkpoint, to_released
from jointrt.export.checkpoint.torch_file import load_checkpoint
from jointrt.export.checkpoint.weights import load_network

DATA = Path(__file__).parents[2] / "data"
SAMPLES = sorted((DATA / "checkpoints").glob("*.pth.tar"))
SPEC = json.loads((DATA / "recipe" / "state_dict_spec.json").read_text())


def read(path):
    """The arrays of the state dict in a checkpoint."""
    checkpoint = load_checkpoint(path)
    return checkpoint.arrays(find_state_dict(checkpoint.content, path))


def released_weights():
    """Tensors of the released shapes; a value per tensor tells them apart."""
    values = {name: torch.full(shape, float(i)) for i, (name, shape, _) in enumerate(SPEC)}
    for name in values:
        if name.startswith("transformer.decoder.self_attn."):
            values[name] = values[name.replace("decoder.self_attn", "encoder.self_attn")]
    return OrderedDict(values)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_structure_of_released_checkpoints_is_read(path):
    assert list(read(path)) == [name for name, _, _ in SPEC]


def test_both_samples_are_there():
    assert len(SAMPLES) == 2


def test_released_names_round_trip():
    kept = [name for name, _, _ in SPEC if from_released(name) is not None]
    assert [to_released(from_released(name)) for name in kept] == kept
    dropped = {name for name, _, _ in SPEC if from_released(name) is None}
    assert all(".WV." in n or n.endswith("num_batches_tracked") or "decoder.self_attn" in n for n in dropped)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trainers_checkpoint_becomes_weights_that_load(tmp_path, zipped):
    released = released_weights()
    source, destination = tmp_path / "net.pth.tar", tmp_path / "w.safetensors"
    content = {"net": released, "constructor": torch.nn.Linear(2, 2), "stats": {"loss": [1.0]}, "epoch": 7}
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    import_checkpoint(source, destination)
    net, origin = load_network(destination)
    assert origin.source == "net.pth.tar"
    state = net.state_dict()
    for name, tensor in released.items():
        ours = from_released(name)
        if ours is not None:
            assert torch.equal(state[ours], tensor), name


DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


@st.composite
def views(draw):
    """A tensor that may be a slice, a transposition or an expansion of another, or empty."""
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    tensor = (torch.randn(shape) * 40).to(draw(st.sampled_from(DTYPES)))
    for axis, size in enumerate(shape):
        start, step = draw(st.integers(0, size)), draw(st.integers(1, 3))
        tensor = tensor[(slice(None),) * axis + (slice(start, None, step),)]
    tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
    if draw(st.booleans()):
        tensor = tensor.unsqueeze(0).expand(3, *tensor.shape)
    return torch.nn.Parameter(tensor) if tensor.is_floating_point() and draw(st.booleans()) else tensor


def assert_as_in_torch(array, tensor):
    expected = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    assert array.shape == tuple(tensor.shape)
    assert array.dtype == expected.numpy().dtype
    np.testing.assert_array_equal(array, expected.numpy())


@given(tensors=st.dictionaries(st.text("abc.", min_size=1, max_size=6), views(), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_what_torch_stored(tmp_path, zipped, tensors):
    path = tmp_path / "t.pth"
    torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=zipped)
    found = read(path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert_as_in_torch(found[name], tensor)


def tar_checkpoint(path):
    """A file as torch wrote before 0.1.10, when its pickles named tensors by number."""
    values = np.arange(12, dtype="<f4")
    kind = b"\x80\x02ctorch\nFloatStorage\n."
    entry = b"\x80\x02(K\x07U\x03cpuctorch\nFloatStorage\nt."
    view = pickle.dumps([(8, 7, 2, 10)], 2)
    storages = pickle.dumps(1, 2) + entry + struct.pack("<q", 12) + values.tobytes() + view
    tensors = pickle.dumps(2, 2)
    for number, storage, offset in ((21, 7, 1), (22, 8, 1)):
        named = b"\x80\x02(K%cK%cctorch\nFloatTensor\nt." % (number, storage)
        tensors += named + struct.pack("<i4x5q", 2, 3, 2, 1, 3, offset)
    content = b"\x80\x02}(U\x01aU\x0221QU\x01bU\x0222Qu."
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, data in (("sys_info", kind), ("pickle", content), ("tensors", tensors), ("storages", storages)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5
            archive.addfile(info, io.BytesIO(data))


def test_the_tar_layout_is_read_as_torch_reads_it(tmp_path):
    path = tmp_path / "old.pth.tar"
    tar_checkpoint(path)
    expected = torch.load(path, weights_only=False, encoding="utf-8")
    found = read(path)
    assert list(found) == ["a", "b"]
    for name, array in found.items():
        assert_as_in_torch(array, expected[name])


class Command:
    """Pickles to a call that leaves a mark."""

    def __init__(self, mark, how):
        self.mark, self.how = str(mark), how

    def __reduce__(self):
        if self.how == "system":
            return os.system, (f"touch {self.mark}",)
        if self.how == "eval":
            return eval, (f"open({self.mark!r}, 'w')",)
        return torch.load, (self.mark,)


def legacy(payload):
    """A legacy checkpoint whose main pickle is the given bytes."""
    head = b"".join(pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    return head + payload + pickle.dumps([], 2)


def zipped(payload):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
    return stream.getvalue()


@pytest.mark.parametrize("layout", [legacy, zipped])
@pytest.mark.parametrize("how", ["system", "eval", "load", "inst", "build"])
def test_a_command_in_a_checkpoint_does_not_run(tmp_path, layout, how):
    mark = tmp_path / "mark"
    if how == "inst":
        payload = b"(S'touch %s'\nios\nsystem\n." % str(mark).encode()
    elif how == "build":
        payload = b"cos\nsystem\n(S'touch %s'\nS'x'\ndb." % str(mark).encode()
    else:
        payload = pickle.dumps({"net": Command(mark, how)}, 2)
    path = tmp_path / "evil.pth"
    path.write_bytes(layout(payload))
    with pytest.raises(WeightsError):
        import_checkpoint(path, tmp_path / "w.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "w.safetensors").exists()


def test_the_crafted_pickle_is_a_real_one(tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickle.dumps(Command(mark, "system"), 2))
    assert mark.exists()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


# A tensor of four floats in storage 0.
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cuda:0") + b"K\x04tQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89}tR"


def with_storage(payload):
    stream = io.BytesIO(zipped(payload))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr("archive/data/0", np.arange(4, dtype="<f4").tobytes())
    return stream.getvalue()


@pytest.mark.parametrize(
    "payload",
    [
        # A tensor's state is replaced by one with a stride far outside of the storage.
        b"\x80\x02}" + text("a") + TENSOR + b"](" + STORAGE + b"K\x00K\x04\x85J\x00\x00\x00\xc0\x85ebs.",
        # An ordered dict gets an attribute `items`.
        b"\x80\x02ccollections\nOrderedDict\n)R" + text("a") + TENSOR + b"s}" + text("items") + b"cos\nsystem\n)Rsb.",
        # The function that rebuilds tensors gets other defaults.
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}"
        + (text("__defaults__") + b")s\x86b0}" + text("a") + TENSOR + b"s."),
    ],
    ids=["tensor", "container", "function"],
)
def test_states_change_nothing(tmp_path, payload):
    path = tmp_path / "state.pth"
    path.write_bytes(with_storage(payload))
    np.testing.assert_array_equal(read(path)["a"], np.arange(4, dtype=np.float32))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "memo index"),
        (b"\x80\x02}N" + b"\x85" * 3_000_000 + b"Ns.", "too many steps"),
        (
            b"\x80\x02(" + b"N" * 60_000 + b"lq\x000" + b"ccollections\nOrderedDict\nh\x00\x85R" * 100 + b".",
            "too many steps",
        ),
        (TENSOR.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85") + b".", "beyond its storage"),
        (TENSOR.replace(b"K\x01\x85", b"J\x00\x00\x00\xc0\x85") + b".", "no lists of sizes"),
        (TENSOR.replace(b"K\x04tQ", b"J\xff\xff\xff\x7ftQ") + b".", "is not there with its 2147483647 elements"),
        (TENSOR.replace(text("0"), text("../../0")) + b".", "is not there"),
    ],
)
def test_what_declares_too_much_is_refused(tmp_path, payload, message):
    path = tmp_path / "bomb.pth"
    path.write_bytes(with_storage(payload))
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(path)


def test_a_deep_pickle_is_read(tmp_path):
    path = tmp_path / "deep.pth"
    path.write_bytes(with_storage(b"\x80\x02}(N" + b"\x85" * 1_000_000 + b"N" + text("a") + TENSOR + b"u."))
    assert list(read(path)) == ["a"]


@pytest.mark.parametrize("packed", ["data.pkl", "data/0"])
def test_compressed_archives_are_refused(tmp_path, packed):
    path = tmp_path / "bomb.pth"
    torch.save({"net": {"a": torch.ones(4)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED if name.endswith(packed) else None)
    with pytest.raises(WeightsError, match="compressed"):
        load_checkpoint(path)


def test_a_changed_storage_is_noticed(tmp_path):
    path = tmp_path / "t.pth"
    torch.save({"a": torch.full((1000,), 1.5)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.5) * 8) + 6] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="damaged"):
        read(path)


def test_big_endian_archives_are_read(tmp_path):
    stream = io.BytesIO(with_storage(b"\x80\x02}" + text("a") + TENSOR + b"s."))
    with zipfile.ZipFile(stream) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    path = tmp_path / "big.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/version", "3")
        archive.writestr("archive/byteorder", "big")
        archive.writestr("archive/data.pkl", entries["archive/data.pkl"])
        archive.writestr("archive/data/0", np.arange(4, dtype=">f4").tobytes())
    np.testing.assert_array_equal(read(path)["a"], np.arange(4, dtype=np.float32))
    assert torch.equal(torch.load(path, map_location="cpu")["a"], torch.arange(4.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole checkpoint"),
        (b"PK\x03\x04 but no archive", "truncated at 19 bytes"),
        (struct.pack("<q", 12345) + b"\x93NUMPY", "whole checkpoint"),
        (b"<!DOCTYPE html><html>", "DOCTYPE|<!DOCTY"),
        (pickle.dumps({"a": 1}), "none of torch.save"),
        (zipped(pickle.dumps([1])).replace(b"data.pkl", b"data.xyz"), "without a data.pkl"),
    ],
)
def test_foreign_files_are_named(tmp_path, content, message):
    path = tmp_path / "foreign.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_truncated_files_are_refused(tmp_path, path):
    data = path.read_bytes()
    for length in (10, 1000, len(data) // 2, len(data) - 3):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(data[:length])
        with pytest.raises(WeightsError) as caught:
            read(cut)
        assert "\n" not in str(caught.value)
    assert f"truncated at {len(data) - 3} bytes" in str(caught.value)


@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8), length=st.floats(0.5, 1))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("layout", ["zip", "legacy", "tar"])
def test_damaged_files_are_read_or_refused(tmp_path, layout, changes, length):
    path = tmp_path / "whole.pth"
    if layout == "tar":
        tar_checkpoint(path)
    else:
        path = DATA / "checkpoints" / f"released_structure_{layout}.pth.tar"
    data = bytearray(path.read_bytes())
    for position, value in changes:
        data[int(position * (len(data) - 1))] = value
    changed = tmp_path / "changed.pth"
    changed.write_bytes(data[: int(length * len(data))] if length < 0.9 else data)
    with contextlib.suppress(WeightsError):
        read(changed)


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path):
    released = released_weights()
    del released["label_encoder.samp_w_pred.bias"]
    released["surplus.weight"] = torch.ones(1)
    released["decoder.project.conv2.bias"] = torch.ones(2)
    source = tmp_path / "net.pth"
    torch.save(released, source)
    with pytest.raises(WeightsError) as caught:
        import_checkpoint(source, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "1 missing: label_encoder.samp_w_pred.bias" in message
    assert "1 unexpected: surplus.weight" in message
    assert "decoder.project.conv2.bias (2,) instead of (1,)" in message


def test_the_shared_attention_must_be_one(tmp_path):
    released = released_weights()
    released["transformer.decoder.self_attn.WK.bias"] = torch.zeros(128)
    source = tmp_path / "net.pth"
    torch.save(released, source)
    with pytest.raises(WeightsError, match="share that module"):
        import_checkpoint(source, tmp_path / "w.safetensors")


def test_whole_numbers_are_no_weights(tmp_path):
    released = released_weights()
    released["decoder.project.conv2.bias"] = torch.ones(1, dtype=torch.int64)
    source = tmp_path / "net.pth"
    torch.save(released, source)
    with pytest.raises(WeightsError, match=r"decoder.project.conv2.bias is a LongStorage"):
        import_checkpoint(source, tmp_path / "w.safetensors")


def test_nothing_is_overwritten_unasked(tmp_path):
    destination = tmp_path / "w.safetensors"
    destination.write_bytes(b"precious")
    with pytest.raises(OutputError, match="--overwrite"):
        import_checkpoint(SAMPLES[0], destination)
    assert destination.read_bytes() == b"precious"


def test_weights_files_are_checked(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="no such weights file"):
        load_network(path)
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(WeightsError, match="not a whole safetensors file"):
        load_network(path)
