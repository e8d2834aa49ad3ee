"""The public interface on a small random network: what must hold whatever the weights."""

import gc
import importlib.util
import re
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pytest
import torch
from jointrt import MaskError, Segmenter, SettingsError
from jointrt.export.checkpoint.network import bundle_network
from jointrt.runtime.cpu.onnxruntime_engine import Buffer
from PIL import Image


@pytest.fixture
def segmenter(tiny_bundle):
    return Segmenter.load(tiny_bundle.folder, threads=1)


def test_ids_are_kept_and_may_have_gaps(segmenter, disc):
    frame, mask = disc(0)
    mask[5:20, 120:150] = 200
    mask[mask == 1] = 7
    labels = segmenter.step(frame, mask)
    np.testing.assert_array_equal(labels, mask)
    assert segmenter.object_ids == (7, 200)
    assert set(np.unique(segmenter.step(disc(1)[0]))) <= {0, 7, 200}


def test_an_object_may_come_later(segmenter, disc):
    segmenter.step(*disc(0))
    segmenter.step(disc(1)[0])
    later = np.zeros((96, 160), np.uint8)
    later[60:90, 100:150] = 9
    labels = segmenter.step(disc(2)[0], later)
    assert segmenter.object_ids == (1, 9)
    np.testing.assert_array_equal(labels[60:90, 100:150], 9)


def test_ids_already_followed_are_ignored_in_a_mask(tiny_bundle, disc):
    plain, again = (Segmenter.load(tiny_bundle.folder, threads=1) for _ in range(2))
    for t in range(3):
        frame, mask = disc(t)
        a = plain.step(frame, mask if t == 0 else None)
        b = again.step(frame, mask)
        np.testing.assert_array_equal(a, b)


def test_what_of_a_mask_has_no_effect_is_said_where_it_was_given(segmenter, disc):
    frame, mask = disc(0)
    with warnings.catch_warnings(action="error"):
        segmenter.step(frame, mask)
        segmenter.step(frame)
        added = mask.copy()
        added[:5, :5] = 7
        segmenter.step(frame, np.where(added == 7, added, 0))
        segmenter.step(frame, mask, correct=True)
    for call in (segmenter.step, segmenter.submit):
        with pytest.warns(UserWarning, match=r"ids 1 changed nothing.*correct=True") as told:
            call(frame, mask)
        assert [w.filename for w in told] == [__file__]
    added[:5, :5] = 9
    with pytest.warns(UserWarning, match="ids 1 changed nothing"):
        segmenter.step(frame, added)
    assert segmenter.object_ids == (1, 7, 9)
    for correct in (False, True):
        with pytest.warns(UserWarning, match=r"empty mask.*remove\(\)"):
            segmenter.step(frame, np.zeros_like(mask), correct=correct)


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (lambda a: None, "None"),
        (lambda a: a.tolist(), "a list"),
        (Image.fromarray, r"a PIL Image \(160, 96\)"),
        (torch.from_numpy, r"a torch Tensor \(96, 160"),
        (lambda a: "frame.png", "a str"),
    ],
)
def test_what_is_no_array_is_named(segmenter, disc, kind, found):
    frame, mask = disc(0)
    with pytest.raises(SettingsError, match=rf"the frame is {found}.*: expected a NumPy array"):
        segmenter.step(kind(frame), mask)
    segmenter.step(frame, mask)
    if kind(mask) is not None:
        with pytest.raises(MaskError, match=rf"the mask is {found}.*: expected a NumPy array"):
            segmenter.step(frame, kind(mask))


@pytest.mark.parametrize("shape", [(0, 0, 3), (0, 160, 3), (96, 160), (96, 160, 4), (1, 96, 160, 3), ()])
def test_frames_of_other_shapes_are_named(segmenter, shape):
    with pytest.raises(SettingsError, match=re.escape(f"the frame is {shape} uint8: expected")):
        segmenter.step(np.zeros(shape, np.uint8), np.ones(shape[:2], np.uint8))


def test_what_cannot_be_is_refused(segmenter, disc):
    frame, mask = disc(0)
    with pytest.raises(MaskError, match="found none"):
        segmenter.step(frame)
    with pytest.raises(MaskError, match="found an empty one"):
        segmenter.step(frame, np.zeros_like(mask))
    with pytest.raises(MaskError, match="the mask is 80x96, the frame 160x96"):
        segmenter.step(frame, mask[:, :80])
    with pytest.raises(MaskError, match="whole numbers"):
        segmenter.step(frame, mask.astype(np.float32))
    with pytest.raises(MaskError, match="0 to 255"):
        segmenter.step(frame, mask.astype(np.int32) * 300)
    with pytest.raises(SettingsError, match="uint8"):
        segmenter.step(frame.astype(np.float32), mask)
    segmenter.step(frame, mask)
    with pytest.raises(SettingsError, match="reset"):
        segmenter.step(frame[:90])
    segmenter.reset()
    segmenter.step(frame[:90], mask[:90])


@pytest.mark.parametrize("settings", [{"memory": 0}, {"interval": 0}, {"branches": "none"}, {"score_resize": "x"}])
def test_settings_are_checked(tiny_bundle, settings):
    with pytest.raises(SettingsError, match="expected"):
        Segmenter.load(tiny_bundle.folder, **settings)


@pytest.mark.parametrize("size", [(96, 160), (300, 90), (41, 333), (700, 1200)])
@pytest.mark.parametrize("settings", [{"memory": 1}, {"interval": 1}, {"branches": "induction"}])
def test_any_frame_size_and_setting(tiny_bundle, disc, size, settings):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, **settings)
    mask = np.zeros(size, np.uint8)
    mask[-12:, -20:] = 3
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    for t in range(6):
        labels = segmenter.step(frame, mask if t == 0 else None)
        assert labels.shape == size
        assert labels.dtype == np.uint8


def test_a_one_pixel_object(segmenter, disc):
    frame, mask = disc(0)
    mask[:] = 0
    mask[0, 159] = 1
    np.testing.assert_array_equal(segmenter.step(frame, mask), mask)
    given = segmenter.tracking.sight().targets[1].pos.copy()
    for t in range(1, 5):
        labels = segmenter.step(disc(t)[0])
        assert set(np.unique(labels)) <= {0, 1}
        probability = segmenter.probabilities()[1]
        assert np.isfinite(probability).all() and probability.max() <= 1
        np.testing.assert_array_equal(labels == 1, probability > 0.5)
        if t == 1:
            # One pixel is less than what may move a target.
            np.testing.assert_array_equal(segmenter.tracking.sight().targets[1].pos, given)


def test_without_the_induction_branch_omega_stays_zero(tiny_bundle, disc):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, branches="transduction")
    for t in range(5):
        segmenter.step(disc(t)[0], disc(t)[1] if t == 0 else None)
    assert not segmenter.tracking.trackers[1].target.omega.array.any()


def test_the_incremental_memory_is_the_whole_softmax(tiny_bundle, disc):
    """Encoded keys after growth and many replacements, against eq. 2 and 3 over the same features at once."""
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, interval=1, memory=4)
    transformer = bundle_network(tiny_bundle).transformer
    for t in range(40):
        segmenter.step(disc(t % 12)[0], disc(0)[1] if t == 0 else None)
        frames = segmenter.tracking.trackers[1].target.memory.frames
        if t in (2, 5, 39):
            z = torch.from_numpy(np.concatenate([frame.look.lent["z"].array for frame in frames])[None])
            with torch.inference_mode():
                joint = z.flatten(1, 2)
                attended = transformer.self_attention(joint, joint, joint).view_as(z) + z
                mean, std = attended.mean(2, keepdim=True), attended.std(2, correction=0, keepdim=True)
                expected = transformer.cross_attention.project((attended - mean) / (std.square() + 1e-5).sqrt())[0]
            found = np.concatenate([frame.key_cross.array for frame in frames])
            assert np.linalg.norm(found - expected.numpy()) <= 1e-4 * np.linalg.norm(expected.numpy())
    assert len(frames) == 4


def test_a_stored_state_goes_on_alike(tiny_bundle, disc):
    whole, first, second = (Segmenter.load(tiny_bundle.folder, threads=1) for _ in range(3))
    expected = [whole.step(disc(t)[0], disc(t)[1] if t == 0 else None) for t in range(12)]
    for t in range(6):
        first.step(disc(t)[0], disc(t)[1] if t == 0 else None)
    second.load_state_dict(first.state_dict())
    for t in range(6, 12):
        np.testing.assert_array_equal(second.step(disc(t)[0]), expected[t])


FLAT = """
import sys
from pathlib import Path

import numpy as np
from jointrt import Segmenter

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

clip = np.load(sys.argv[1])
frames, mask = clip["frames"], clip["mask"]
segmenter = Segmenter.load(sys.argv[2], threads=1, backend=sys.argv[3])
for t in range(101):
    segmenter.step(frames[t % 8], None if t else mask)
before = resident()
for t in range(1000):
    segmenter.step(frames[t % 8])
print(resident() - before)
"""


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_memory_is_flat_over_a_thousand_frames(tiny_bundle, disc, tmp_path, backend):
    """In a process of its own: where a graph was exported, the exporter's garbage comes and goes meanwhile."""
    if backend == "openvino" and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not for this machine")
    clip = tmp_path / "clip.npz"
    np.savez(clip, frames=[disc(t)[0] for t in range(8)], mask=disc(0)[1])
    arguments = [sys.executable, "-c", FLAT, str(clip), str(tiny_bundle.folder), backend]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1 << 20


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_engines_go_with_their_segmenter(tiny_bundle, disc, backend):
    """Not only when the collector comes: a process of many videos would hold all their engines."""
    if backend == "openvino":
        pytest.importorskip("openvino")
    gc.collect()
    gc.disable()
    try:
        segmenter = Segmenter.load(tiny_bundle.folder, threads=1, backend=backend)
        segmenter.step(*disc(0))
        engine = weakref.ref(next(iter(segmenter.tracking.network.engines.values())))
        del segmenter
        assert engine() is None
    finally:
        gc.enable()


def test_a_buffer_shares_its_memory():
    array = np.zeros(4, np.float32)
    buffer = Buffer(array)
    array[2] = 5
    assert buffer.value.numpy()[2] == 5


def test_frames_of_a_stream_are_those_of_single_steps(tiny_bundle, disc):
    alone, streamed = (Segmenter.load(tiny_bundle.folder, threads=1) for _ in range(2))
    frames = [disc(t)[0] for t in range(5)]
    expected = [alone.step(frame, disc(0)[1] if t == 0 else None) for t, frame in enumerate(frames)]
    np.testing.assert_array_equal(list(streamed.stream(frames, disc(0)[1])), expected)


def test_a_snapshot_is_gone_back_to_exactly_and_more_than_once(tiny_bundle, disc):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, memory=3, interval=2)
    for t in range(5):
        segmenter.step(disc(t)[0], disc(0)[1] if t == 0 else None)
    snapshot = segmenter.snapshot()
    expected = [segmenter.step(disc(t)[0]) for t in range(5, 12)]
    for _ in range(2):
        segmenter.restore(snapshot)
        np.testing.assert_array_equal([segmenter.step(disc(t)[0]) for t in range(5, 12)], expected)


def test_without_correct_masks_of_followed_objects_change_nothing_and_with_it_they_are_the_truth(tiny_bundle, disc):
    plain, corrected = (Segmenter.load(tiny_bundle.folder, threads=1) for _ in range(2))
    for t in range(4):
        plain.step(disc(t)[0], disc(0)[1] if t == 0 else None)
        corrected.step(disc(t)[0], disc(0)[1] if t == 0 else None)
    frame, truth = disc(4)
    assert not np.array_equal(plain.step(frame, truth), truth)
    np.testing.assert_array_equal(corrected.step(frame, truth, correct=True), truth)


def test_a_corrected_object_takes_up_from_its_correction(tiny_bundle, disc):
    """It is led astray by a wrong mask; a correction brings place, size and memory back to the disc."""
    wrong = np.zeros((96, 160), np.uint8)
    wrong[2:20, 130:158] = 1
    astray, mended = (Segmenter.load(tiny_bundle.folder, threads=1, interval=2) for _ in range(2))
    for t in range(4):
        for segmenter in (astray, mended):
            segmenter.step(disc(t)[0], wrong if t == 0 else None)
    astray.step(disc(4)[0])
    mended.step(*disc(4), correct=True)
    shared = []
    for segmenter in (astray, mended):
        found = [segmenter.step(disc(t)[0]) == 1 for t in range(5, 10)]
        true = [disc(t)[1] == 1 for t in range(5, 10)]
        shared.append(np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(found, true, strict=True)]))
    assert shared[1] > 0.5 > shared[0]


def test_corrections_stay_in_the_memory_and_the_oldest_of_many_goes(tiny_bundle, disc):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, memory=5, interval=1)
    segmenter.step(*disc(0))
    tracker = segmenter.tracking.trackers[1]
    seen = []
    for t in range(1, 30):
        given = t % 7 == 0
        segmenter.step(disc(t % 12)[0], disc(t % 12)[1] if given else None, correct=given)
        if given:
            seen.append(tracker.target.memory.z_ind()[0, tracker.weights.given[-1]])
        for slot, features in zip(tracker.weights.given, seen[-3:], strict=True):
            np.testing.assert_array_equal(tracker.target.memory.z_ind()[0, slot], features)
        shares = tracker.weights.current[[0, *tracker.weights.given]]
        assert (shares >= min(0.25, 0.5 / len(shares)) - 1e-6).all()
    assert len(seen) == 4 and len(tracker.weights.given) == 3


@pytest.mark.parametrize("memory", [1, 2, 3])
def test_small_memories_take_corrections_too(tiny_bundle, disc, memory):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, memory=memory, interval=1)
    for t in range(8):
        frame, truth = disc(t)
        labels = segmenter.step(frame, truth if t in (0, 3, 4) else None, correct=t > 0)
        if t in (0, 3, 4):
            np.testing.assert_array_equal(labels, truth)


def test_a_removed_object_is_gone_and_the_other_goes_on_as_alone(tiny_bundle, disc):
    """The two never touch, so that the merge leaves each as it would be alone."""
    both, alone = (Segmenter.load(tiny_bundle.folder, threads=1) for _ in range(2))
    frame, mask = disc(0)
    two = mask.copy()
    two[80:94, 140:158] = 2
    both.step(frame, two)
    alone.step(frame, mask)
    both.remove(2)
    assert both.object_ids == (1,)
    for t in range(1, 8):
        np.testing.assert_array_equal(both.step(disc(t)[0]), alone.step(disc(t)[0]))
    both.remove(1)
    with pytest.raises(SettingsError, match="object 1 is not followed: followed are none"):
        both.remove(1)
    with pytest.raises(MaskError, match="no object"):
        both.step(frame)
    np.testing.assert_array_equal(both.step(frame, two), two)
