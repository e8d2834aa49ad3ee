import contextlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jointrt.export.checkpoint import from_released, import_checkpoint, read_released, to_released
from jointrt.export.unpickle import load_checkpoint
from jointrt.export.weights import load_network
from jointrt.runtime.errors import OutputError, WeightsError

DATA = Path(__file__).parents[1] / "data"
SAMPLES = sorted((DATA / "checkpoints").glob("*.pth.tar"))
SPEC = json.loads((DATA / "recipe" / "state_dict_spec.json").read_text())


def released_weights():
    """Tensors of the released shapes; a value per tensor tells them apart."""
    values = {name: torch.full(shape, float(i)) for i, (name, shape, _) in enumerate(SPEC)}
    for name in values:
        if name.startswith("transformer.decoder.self_attn."):
            values[name] = values[name.replace("decoder.self_attn", "encoder.self_attn")]
    return OrderedDict(values)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_structure_of_released_checkpoints_is_read(path):
    assert list(read_released(path)) == [name for name, _, _ in SPEC]


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


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_are_what_torch_stored(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "view": base[1:, ::2],
        "transposed": base.T,
        "half": torch.randn(3).half(),
        "brain": torch.randn(5).bfloat16(),
        "long": torch.tensor([-1, 2**40]),
        "bool": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "t.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    found = read_released(path)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        expected = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        np.testing.assert_array_equal(found[name], expected.numpy())


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


def test_memo_and_storage_bombs_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    path.write_bytes(zipped(b"\x80\x02Nr\xff\xff\xff\x7f."))
    with pytest.raises(WeightsError, match="memo"):
        load_checkpoint(path)
    torch.save({"net": {"a": torch.ones(4)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(WeightsError, match="compressed"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole checkpoint"),
        (b"PK\x03\x04 but no archive", "whole checkpoint"),
        (struct.pack("<q", 12345) + b"\x93NUMPY", "whole checkpoint|not a torch checkpoint"),
        (pickle.dumps({"a": 1}), "not a torch checkpoint"),
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
    for length in (10, len(data) // 2, len(data) - 3):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(data[:length])
        with pytest.raises(WeightsError):
            read_released(cut)


@given(position=st.integers(0, 40_000), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_changed_byte_is_read_or_refused(tmp_path, path, position, value):
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    changed = tmp_path / "changed.pth"
    changed.write_bytes(data)
    with contextlib.suppress(WeightsError):
        read_released(changed)


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
