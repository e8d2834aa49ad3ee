"""The device's orchestrator on CPU tensors: the same code, called instead of captured."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jointrt.errors import MaskError, SettingsError
from jointrt.export.parity.reference import reference_defaults, reference_segmenter
from jointrt.export.parity.torch_network import torch_network
from jointrt.runtime.device.follower import BatchSegmenter, DeviceFollower
from jointrt.runtime.device.video_batch import VideoBatch
from jointrt.runtime.segmenter import Segmenter
from jointrt.runtime.settings import Settings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.usefixtures("one_thread")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
SIZE = (120, 160)


def settings(**changes):
    return Settings.resolve(reference_defaults(memory=3, interval=2), threads=1, **changes)


def network(net, device="cpu", precision="fp32", capacity=3, **changes):
    return torch_network(net, settings(**changes), precision, device, capacity)


def video(frames, seed=0, first=1, second=2):
    """Coloured squares that move over noise, and label maps: object 1 at the first frame, object 4 at `second`."""
    background = np.random.default_rng(seed).integers(0, 80, (*SIZE, 3), dtype=np.uint8)
    for t in range(frames):
        frame, labels = background.copy(), np.zeros(SIZE, np.uint8)
        for object_id, top, left, colour in (
            (first, 20 + 2 * t, 30 + 3 * t + 5 * seed, (250, 40, 0)),
            (4, 60, 100 - 2 * t, (0, 90, 250)),
        ):
            frame[top : top + 36, left : left + 40] = colour
            labels[top : top + 36, left : left + 40] = object_id
        yield frame, {0: np.where(labels == first, labels, 0).astype(np.uint8), second: labels}.get(t)


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("fp32", {}),
        ("fp16", {}),
        ("fp32", {"branches": "transduction"}),
        ("fp32", {"branches": "induction", "score_resize": "ratio"}),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_a_video_on_a_device_follows_the_released_algorithm(net, device, precision, changes):
    """Frame by frame from the same probabilities: the merged probability maps agree.

    The reference encodes its whole memory anew and learns by the network's own forward passes. The memory grows, fills
    and is replaced, and a second object appears on the way. The engines have more slots than the memory uses.
    """
    reference = reference_segmenter(net, settings(**changes))
    tested = Segmenter(DeviceFollower(network(net, device, precision, capacity=4, **changes)))
    for t, (frame, mask) in enumerate(video(10 if not changes else 6)):
        expected, found = reference.step(frame, mask), tested.step(frame, mask)
        maps = np.stack(list(reference.probabilities().values()))
        mine = np.stack(list(tested.probabilities().values()))
        # Random weights give flat maps: what counts is the error against what varies in them.
        assert np.abs(maps - mine).mean() < {"fp32": 1e-3, "fp16": 0.03}[precision] * maps.std(), t
        assert precision == "fp16" or (found == expected).mean() > 0.99, t
        assert (found > 0).any()
        tested.tracking.batch.tensors["probability"].copy_(torch.from_numpy(maps))
    assert tested.object_ids == (1, 4)
    if not changes:
        assert tested.tracking.batch.tensors["stored"].flatten().tolist() == [3, 3]


@pytest.mark.parametrize("device", DEVICES)
def test_videos_in_one_batch_are_followed_as_each_alone(net, device):
    """They begin at different times and with different numbers of objects; one ends, and another takes its place."""
    shared = network(net, device)
    clips = [list(video(9, seed=0)), list(video(6, seed=1, first=7, second=0)), list(video(4, seed=2, second=9))]
    begin, place = (0, 2, 5), (0, 1, 2)
    alone = [Segmenter(DeviceFollower(network(net, device))) for _ in clips]
    together = BatchSegmenter(shared, 3)
    for t in range(9):
        frames, masks = [None] * 3, [None] * 3
        for clip, first, video_index in zip(clips, begin, place, strict=True):
            if first <= t < first + len(clip):
                frames[video_index], masks[video_index] = clip[t - first]
        if t == begin[1] + len(clips[1]):
            together.reset(1)
        labels = together.step(frames, masks)
        for i, single in enumerate(alone):
            if frames[i] is None:
                assert labels[i] is None
                continue
            expected = single.step(frames[i], masks[i])
            assert together.object_ids(i) == single.object_ids
            assert (labels[i] == expected).mean() > 0.995, (t, i)
            maps = np.stack(list(single.probabilities().values()))
            owned = [k for k, owner in enumerate(together.batch._owners) if owner == i]
            mine = together.batch.tensors["probability"].cpu().numpy()[owned]
            assert np.abs(mine - maps).max() < 2e-3 * max(maps.std(), 1e-3) + 1e-4, (t, i)
    assert together.object_ids(1) == ()


class Divided:
    """An engine that carries one object per call and takes aligned addresses only."""

    capturable, max_batch = False, 1

    def __init__(self, engine, alignment):
        self.engine, self.alignment, self.ports = engine, alignment, engine.ports

    def bind(self, arrays):
        assert all(array.shape[0] == 1 and array.address % self.alignment == 0 for array in arrays.values())
        return self.engine.bind(arrays)


def test_a_batch_is_divided_and_aligned_for_engines_that_need_it(net):
    """Tensors on the CPU begin at multiples of 64; a second object's flags and denominators do not."""
    whole, divided = network(net), network(net)
    divided.engines = {name: Divided(engine, 64) for name, engine in divided.engines.items()}
    divided.alignment = 64
    one, other = Segmenter(DeviceFollower(whole)), Segmenter(DeviceFollower(divided))
    for t, (frame, mask) in enumerate(video(8, second=0)):
        assert (one.step(frame, mask) == other.step(frame, mask)).mean() > 0.995, t
    maps = [s.tracking.batch.tensors["probability"] for s in (one, other)]
    assert (maps[0] - maps[1]).abs().max() < 1e-3


def test_frames_may_be_queued_ahead(net):
    shared = network(net)
    segmenter = Segmenter(DeviceFollower(shared))
    clip = list(video(6))
    expected = [segmenter.step(frame, mask if t == 0 else None) for t, (frame, mask) in enumerate(clip)]
    segmenter.reset()
    pending = [segmenter.submit(frame, mask if t == 0 else None) for t, (frame, mask) in enumerate(clip)]
    segmenter.reset()
    streamed = segmenter.stream((frame for frame, _ in clip), clip[0][1])
    for a, b, c in zip(expected, [p.result() for p in pending], streamed, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_memory_is_given_back_before_more_is_taken(net, monkeypatch):
    """Where objects appear, and at the end of a video: no array of before is there when the new ones are made."""
    segmenter = Segmenter(DeviceFollower(network(net)))
    clip = list(video(4))
    segmenter.step(*clip[0])
    layers = [weakref.ref(segmenter.tracking.batch.tensors[f"layer{i}"]) for i in (1, 2, 3, 4)]
    make = segmenter.tracking.network.tensor

    def tensor(port, batch):
        assert not any(layer() is not None for layer in layers)
        return make(port, batch)

    segmenter.step(*clip[1])
    monkeypatch.setattr(segmenter.tracking.network, "tensor", tensor)
    segmenter.step(*clip[2])
    layers[:] = [weakref.ref(segmenter.tracking.batch.tensors["layer1"])]
    segmenter.reset()
    assert layers[0]() is None


def test_a_state_is_taken_up_exactly(net):
    shared = network(net)
    segmenter, other = Segmenter(DeviceFollower(shared)), Segmenter(DeviceFollower(shared))
    clip = list(video(8))
    assert other.state_dict()["owners"].size == 0
    for frame, mask in clip[:5]:
        segmenter.step(frame, mask)
    other.load_state_dict({name: array.copy() for name, array in segmenter.state_dict().items()})
    for frame, _ in clip[5:]:
        np.testing.assert_array_equal(other.step(frame), segmenter.step(frame))
    assert other.object_ids == segmenter.object_ids


class HostWatch(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU, let values decide a shape, or copy from the host."""

    WAITS = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "is_nonzero",
        "equal",
        "_unique2",
        "lift_fresh",
        "bincount",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").partition(".")[0]
        assert name not in self.WAITS, name
        found = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        assert all(t.device.type == "meta" for t in found), f"{name} takes a tensor of the host"
        if name in ("index", "index_put"):
            assert all(i is None or i.dtype == torch.int64 for i in args[1]), "indexed by a mask"
        result = func(*args, **(kwargs or {}))
        assert all(t.device.type == "meta" for t in tree_leaves(result) if isinstance(t, torch.Tensor)), name
        return result


@pytest.mark.parametrize("changes", [{}, {"branches": "transduction", "score_resize": "ratio"}])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_frames_and_updates_neither_wait_for_the_host_nor_read_from_it(net, precision, changes):
    """On tensors without values, which nothing can read and which work with none of the host."""
    batch = VideoBatch(network(net, "meta", precision, **changes), 2)
    batch.ids, batch.size = [[1, 4], [7]], SIZE
    batch.queue = SimpleNamespace(frames=torch.zeros(2, *SIZE, 3, dtype=torch.uint8, device="meta"))
    with batch.network.lane.work():
        batch._lay_out([0, 0, 1], [(2, 5), (1, 3)])
        with HostWatch():
            batch._follow()
            for group in batch.groups:
                group._update()


def test_what_does_not_fit_is_refused(net):
    with pytest.raises(MaskError, match="no object"):
        Segmenter(DeviceFollower(network(net))).step(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SettingsError, match="2 frames"):
        BatchSegmenter(network(net), 3).step([None, None])
    with pytest.raises(SettingsError, match="no video has a frame"):
        BatchSegmenter(network(net), 1).step([None])
    with pytest.raises(SettingsError, match="2 slots"):
        network(net, capacity=2)
