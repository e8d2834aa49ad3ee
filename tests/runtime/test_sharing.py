"""Objects that share against objects that each have a network of their own, joined by the merge alone."""

from collections import Counter

import numpy as np
import pytest
from jointrt import Segmenter
from jointrt.runtime.tracking.aggregation import PastedScores, merge

FRAMES = 12
LATER, CORRECTED, REMOVED = 3, 6, 9


class Apart:
    """Runs of one object each: what was merged goes back to each of them, nothing else passes between them."""

    def __init__(self, load):
        self.load, self.alone, self.probabilities = load, {}, {}

    def step(self, frame, given):
        pasted = {}
        for object_id, segmenter in self.alone.items():
            if object_id not in given:
                pasted |= segmenter.tracking._track(frame, [object_id])
        for object_id, mask in given.items():
            known = object_id in self.alone
            segmenter = self.alone.setdefault(object_id, self.load())
            segmenter.step(frame, mask * np.uint8(object_id), correct=known)
            pasted[object_id] = PastedScores.given(mask)
        maps = np.zeros((len(self.alone), *frame.shape[:2]), np.float32)
        labels = np.zeros(frame.shape[:2], np.uint8)
        ids = np.array((0, *self.alone), np.uint8)
        region = merge([pasted[i] for i in self.alone], ids, maps, labels)
        for (object_id, segmenter), probability in zip(self.alone.items(), maps, strict=True):
            segmenter.tracking._probabilities, segmenter.tracking._region = probability[None], region
            self.probabilities[object_id] = probability
        return labels

    def remove(self, object_id):
        del self.alone[object_id]


def scene(disc, t):
    """A frame, and the masks that are given in it: two objects at first, one more later, one corrected."""
    frame, mask = disc(t)
    masks = {1: mask == 1, 2: np.zeros(mask.shape, np.bool_), 7: np.zeros(mask.shape, np.bool_)}
    masks[2][50:92, 90:155] = True
    masks[2] &= ~masks[1]
    masks[7][2:25, 10:70] = True
    masks[7] &= ~masks[1]
    shown = {0: (1, 2), LATER: (7,), CORRECTED: (2,)}.get(t, ())
    return frame, {i: masks[i] for i in shown}


def play(disc, segmenter, frames=range(FRAMES)):
    """Masks and probabilities of the scene, frame by frame."""
    for t in frames:
        frame, given = scene(disc, t)
        if t == REMOVED:
            segmenter.remove(1)
        if isinstance(segmenter, Apart):
            labels = segmenter.step(frame, given)
            yield labels, {i: segmenter.probabilities[i] for i in segmenter.alone}
        else:
            mask = sum((m * np.uint8(i) for i, m in given.items()), np.zeros(frame.shape[:2], np.uint8))
            labels = segmenter.step(frame, mask if given else None, correct=t == CORRECTED)
            yield labels, segmenter.probabilities()


def counted(segmenter):
    """Calls of the engines from here on, by graph."""
    calls = Counter()
    for name, engine in segmenter.tracking.network.engines.items():

        def run(inputs, outputs, name=name, run=engine.run):
            calls[name] += 1
            run(inputs, outputs)

        engine.run = run
    return calls


@pytest.mark.parametrize("windows", ["released", "steady"])
@pytest.mark.parametrize("branches", ["both", "induction", "transduction"])
def test_masks_are_to_the_bit_those_of_runs_of_one_object(tiny_bundle, disc, windows, branches):
    def load():
        settings = {"interval": 1, "memory": 4} if branches == "both" else {}
        return Segmenter.load(tiny_bundle.folder, threads=1, windows=windows, branches=branches, **settings)

    shared = 0
    apart, together = Apart(load), load()
    for (expected, maps), (labels, found) in zip(play(disc, apart), play(disc, together), strict=True):
        np.testing.assert_array_equal(labels, expected)
        assert found.keys() == maps.keys()
        for object_id, probability in maps.items():
            np.testing.assert_array_equal(found[object_id], probability)
        held = [tracker.target.features.look for tracker in together.tracking.trackers.values()]
        shared += len(held) - len(set(held))
    assert shared


def test_what_objects_have_alike_is_computed_once(tiny_bundle, disc):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, windows="steady", interval=1, memory=4)
    frame, mask = disc(0)
    mask[50:92, 90:155] = np.where(mask[50:92, 90:155], mask[50:92, 90:155], 2)
    segmenter.step(frame, mask)
    calls = counted(segmenter)
    for t in range(1, 20):
        calls.clear()
        segmenter.step(disc(t % 12)[0])
        trackers = segmenter.tracking.trackers.values()
        assert calls["backbone"] == calls["transformer_query"] == len({tracker.window for tracker in trackers}) == 1
        assert calls["decoder"] == 2
    # Of three frames that stay, two are the same for both; only their first frames are not.
    assert calls["memory_add"] == 2 and calls["memory_replace"] == 2 and not calls["memory_swap"]
    memories = [tracker.target.memory for tracker in trackers]
    same = [False, True, True, True]
    assert [a.look is b.look for a, b in zip(memories[0].frames, memories[1].frames, strict=True)] == same
    assert [a is b for a, b in zip(memories[0].x_ind, memories[1].x_ind, strict=True)] == same
    assert len(segmenter.tracking.network.terms.kept) == 3 == len(memories[0].terms) == len(memories[1].terms)


def held(segmenter):
    """Sets of buffers of stored features, all objects together."""
    return len({id(x_ind) for tracker in segmenter.tracking.trackers.values() for x_ind in tracker.target.memory.x_ind})


@pytest.mark.parametrize("share", ["exact", "frame"])
@pytest.mark.parametrize("stop", [2, LATER + 1, CORRECTED + 1, REMOVED + 1])
def test_a_stored_state_goes_on_alike_and_shares_as_before(tiny_bundle, disc, share, stop):
    whole, first, second = (
        Segmenter.load(tiny_bundle.folder, threads=1, windows="steady", interval=1, memory=4, share=share)
        for _ in range(3)
    )
    for _ in play(disc, whole, range(stop)):
        pass
    for _ in play(disc, first, range(stop)):
        pass
    second.load_state_dict(first.state_dict())
    calls = [counted(segmenter) for segmenter in (whole, second)]
    rest = range(stop, FRAMES)
    for (expected, _), (labels, _) in zip(play(disc, whole, rest), play(disc, second, rest), strict=True):
        np.testing.assert_array_equal(labels, expected)
    assert calls[0] == calls[1]
    assert held(whole) == held(second)
    expected, found = whole.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_objects_that_look_at_the_frame_have_one_memory_and_are_read_for_at_once(tiny_bundle, disc):
    def load():
        return Segmenter.load(tiny_bundle.folder, threads=1, interval=1, memory=4, share="frame")

    apart, together = Apart(load), load()
    calls = counted(together)
    for t, ((expected, maps), (labels, found)) in enumerate(zip(play(disc, apart), play(disc, together), strict=True)):
        assert (labels != expected).mean() < 1e-3
        for object_id, probability in maps.items():
            np.testing.assert_allclose(found[object_id], probability, atol=2e-3)
        assert calls["backbone"] == 1 + (t in (LATER, CORRECTED))
        memories = {id(tracker.target.memory) for tracker in together.tracking.trackers.values()}
        assert len(memories) == 1 + (t >= LATER) + (LATER < CORRECTED <= t) - (t >= REMOVED)
        assert calls["memory_read_several"] == (min(t, 4) if 0 < t <= CORRECTED - 1 else 0)
        calls.clear()


def test_a_bundle_without_the_graph_for_several_reads_one_by_one(tiny_bundle, disc):
    with_it, without = (
        Segmenter.load(tiny_bundle.folder, threads=1, interval=1, memory=4, share="frame") for _ in range(2)
    )
    del without.tracking.network.engines["memory_read_several"]
    for (expected, _), (labels, _) in zip(play(disc, with_it), play(disc, without), strict=True):
        assert (labels != expected).mean() < 1e-3


def test_the_room_of_an_object_that_goes_is_taken_again(tiny_bundle, disc):
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1, interval=1, memory=3, share="frame")
    frame, mask = disc(0)
    segmenter.step(frame, mask)
    network = segmenter.tracking.network
    for t in range(1, 25):
        new = np.zeros_like(mask)
        new[60:90, 100:150] = 2
        segmenter.step(disc(t % 12)[0], new if t % 6 == 1 else None)
        if t % 6 == 0:
            segmenter.remove(2)
            assert len(segmenter.tracking.trackers[1].target.memory.users) == 1
        if t == 12:
            made = len(network._looks.free), len(network._features.free), len(network._sum_pool.free)
    assert (len(network._looks.free), len(network._features.free), len(network._sum_pool.free)) == made
