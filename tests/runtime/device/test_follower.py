"""The device's orchestrator on CPU tensors: the same code, called instead of captured."""

import weakref

import numpy as np
import pytest
import torch
from jointrt.errors import DeviceError, MaskError, SettingsError
from jointrt.export.parity.reference import reference_defaults, reference_segmenter
from jointrt.export.parity.torch_network import torch_network
from jointrt.runtime.device.follower import BatchSegmenter, DeviceFollower
from jointrt.runtime.device.layout import Layout
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
        ("fp32", {"share": "frame"}),
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


@pytest.mark.parametrize("changes", [{}, {"share": "frame"}])
@pytest.mark.parametrize("device", DEVICES)
def test_videos_in_one_batch_are_followed_as_each_alone(net, device, changes):
    """They begin at different times and with different numbers of objects; one ends, and another takes its place."""
    shared = network(net, device, **changes)
    clips = [list(video(9, seed=0)), list(video(6, seed=1, first=7, second=0)), list(video(4, seed=2, second=9))]
    begin, place = (0, 2, 5), (0, 1, 2)
    alone = [Segmenter(DeviceFollower(network(net, device, **changes))) for _ in clips]
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
            mine = together.batch.tensors["probability"].cpu().numpy()[together.batch.places(i)]
            assert np.abs(mine - maps).max() < 2e-3 * max(maps.std(), 1e-3) + 1e-4, (t, i)
    assert together.object_ids(1) == ()


class Divided:
    """An engine that carries one object per call and takes aligned addresses only."""

    capturable, max_batch, in_place = False, 1, False

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


def test_a_reset_gives_back_what_was_held(net):
    segmenter = Segmenter(DeviceFollower(network(net)))
    for frame, mask in video(4):
        segmenter.step(frame, mask)
    held = [weakref.ref(segmenter.tracking.batch.tensors[name]) for name in ("layer1", "z_all", "probability")]
    held += [weakref.ref(learner) for learner in segmenter.tracking.batch.learners.values()]
    segmenter.reset()
    assert not any(tensor() is not None for tensor in held)


def test_after_an_out_of_memory_the_objects_of_before_are_followed_as_before(net, monkeypatch):
    """The second object does not fit; the first one's masks are those of a video without it."""
    alone, tested = (Segmenter(DeviceFollower(network(net))) for _ in range(2))
    make = tested.tracking.network.tensor

    def no_room(port, batch):
        raise torch.OutOfMemoryError

    for t, (frame, mask) in enumerate(video(6)):
        expected = alone.step(frame, mask if t == 0 else None)
        if t != 2:
            np.testing.assert_array_equal(tested.step(frame, mask if t == 0 else None), expected)
            continue
        monkeypatch.setattr(tested.tracking.network, "tensor", no_room)
        with pytest.raises(DeviceError, match="does not hold 2 objects"):
            tested.step(frame, mask)
        monkeypatch.setattr(tested.tracking.network, "tensor", make)
        assert tested.object_ids == (1,)
    assert tested.object_ids == (1,)


def test_a_removed_objects_place_is_taken_again_in_the_same_arrays(net):
    """Removed, and followed once more from a later mask: as by a segmenter that saw the video so from the start."""
    tested = Segmenter(DeviceFollower(network(net)))
    reference = reference_segmenter(net, settings())
    clip = list(video(9))
    for t, (frame, mask) in enumerate(clip):
        if t == 4:
            layout = tested.tracking.batch.layout
            for segmenter in (tested, reference):
                segmenter.remove(1)
            assert tested.object_ids == (4,)
        if t == 6:
            mask = np.zeros(SIZE, np.uint8)
            mask[40:76, 50:90] = 9
        expected, found = reference.step(frame, mask), tested.step(frame, mask)
        maps = np.stack(list(reference.probabilities().values()))
        mine = np.stack(list(tested.probabilities().values()))
        assert np.abs(maps - mine).mean() < 1e-3 * maps.std(), t
        assert (found == expected).mean() > 0.99, t
        tested.align(reference)
    assert tested.object_ids == reference.object_ids == (4, 9)
    assert tested.tracking.batch.layout is layout


def test_a_correction_does_what_it_does_on_the_host(net):
    """In a memory that is full, at a frame in which the other object enters its own."""
    tested, reference = Segmenter(DeviceFollower(network(net))), reference_segmenter(net, settings())
    clip = list(video(12, second=0))
    for t, (frame, mask) in enumerate(clip):
        correct = t in (3, 7)
        if correct:
            mask = np.zeros(SIZE, np.uint8)
            mask[30 + t : 70 + t, 40:90] = 4
        expected, found = (s.step(frame, mask, correct=correct) for s in (reference, tested))
        maps = np.stack(list(reference.probabilities().values()))
        mine = np.stack(list(tested.probabilities().values()))
        assert np.abs(maps - mine).mean() < 1e-3 * maps.std(), t
        assert (found == expected).mean() > 0.99, t
        tested.align(reference)


def test_one_goes_back_to_a_snapshot_without_new_arrays(net):
    segmenter = Segmenter(DeviceFollower(network(net)))
    clip = list(video(8))
    for frame, mask in clip[:4]:
        segmenter.step(frame, mask)
    snapshot, layout = segmenter.snapshot(), segmenter.tracking.batch.layout
    expected = [segmenter.step(frame) for frame, _ in clip[4:]]
    segmenter.restore(snapshot)
    for (frame, _), labels in zip(clip[4:], expected, strict=True):
        np.testing.assert_array_equal(segmenter.step(frame), labels)
    assert segmenter.tracking.batch.layout is layout


def test_a_state_is_taken_up_exactly(net):
    shared = network(net)
    segmenter, other = Segmenter(DeviceFollower(shared)), Segmenter(DeviceFollower(shared))
    clip = list(video(8))
    assert other.state_dict()["objects"].size == 0
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


@pytest.mark.parametrize("changes", [{}, {"branches": "transduction", "score_resize": "ratio", "share": "frame"}])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_frames_and_updates_neither_wait_for_the_host_nor_read_from_it(net, precision, changes):
    """On tensors without values, which nothing can read and which work with none of the host."""
    device_network = network(net, "meta", precision, **changes)
    with device_network.lane.work():
        layout = Layout(device_network, torch.zeros(2, *SIZE, 3, dtype=torch.uint8, device="meta"), 3, 2)
        groups = [layout.group(0, 2), layout.group(2, 1)]
        with HostWatch():
            layout.compute()
            for group in groups:
                group.compute()


def test_what_does_not_fit_is_refused(net):
    with pytest.raises(MaskError, match="no object"):
        Segmenter(DeviceFollower(network(net))).step(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SettingsError, match="2 frames"):
        BatchSegmenter(network(net), 3).step([None, None])
    with pytest.raises(SettingsError, match="no video has a frame"):
        BatchSegmenter(network(net), 1).step([None])
    with pytest.raises(SettingsError, match="2 slots"):
        network(net, capacity=2)


def test_what_of_a_mask_has_no_effect_is_said_on_a_device_too(net):
    segmenter = Segmenter(DeviceFollower(network(net)))
    frames = list(video(4))
    frame, first = frames[0]
    segmenter.step(frame, first)
    with pytest.warns(UserWarning, match=r"ids 1 changed nothing") as told:
        segmenter.step(frame, frames[2][1])
    assert [w.filename for w in told] == [__file__] and segmenter.object_ids == (1, 4)
    with pytest.warns(UserWarning, match="empty mask"):
        segmenter.step(frame, np.zeros_like(first))


class Touched(TorchDispatchMode):
    """Which of some tensors' memories operators read, and which they write."""

    def __init__(self, known):
        super().__init__()
        self.known = {t.untyped_storage()._cdata: name for name, t in known.items()}
        self.read, self.written = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for i, argument in enumerate(func._schema.arguments):
            value = kwargs.get(argument.name, args[i] if i < len(args) else None)
            names = {self.known.get(t.untyped_storage()._cdata) for t in tree_leaves(value) if torch.is_tensor(t)}
            writes = argument.alias_info is not None and argument.alias_info.is_write
            (self.written if writes else self.read).update(names - {None})
        return func(*args, **kwargs)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_few_shot_steps_and_memory_update_do_not_touch_what_the_other_writes(net, precision):
    """So that on a GPU they may run side by side."""
    device_network = network(net, "meta", precision)
    with device_network.lane.work():
        layout = Layout(device_network, torch.zeros(1, *SIZE, 3, dtype=torch.uint8, device="meta"), 2, 2)
        group, slot = layout.group(0, 2), torch.zeros(2, 3, device="meta")
        with Touched(layout.tensors) as learning:
            group.learn()
        with Touched(layout.tensors) as remembering:
            group.remember(slot)
    assert learning.written == {"omega"} and {"z_ind", "sample_weights"} <= learning.read
    assert {"z_all", "key_all", "C_all", "D_all", "key_cross_all", "valid"} <= remembering.written
    assert not learning.written & (remembering.read | remembering.written)
    assert not remembering.written & (learning.read | learning.written)
