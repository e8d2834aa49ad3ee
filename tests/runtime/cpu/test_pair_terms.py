"""Kept terms of the memory's attention against terms that are computed again."""

import numpy as np
import pytest
from jointrt import Segmenter
from jointrt.runtime.cpu.pair_terms import PairTerms, TermPool


def load(bundle, budget=None, **settings):
    segmenter = Segmenter.load(bundle.folder, threads=1, **settings)
    if budget is not None:
        segmenter.tracking.network.terms.budget = budget
    return segmenter


def two_objects(disc, t):
    frame, mask = disc(t)
    if t == 3:
        mask[60:90, 100:150] = 9
    return frame, mask if t in (0, 3) else None


def all_terms(segmenter):
    memories = [tracker.target.memory for tracker in segmenter.tracking.trackers.values()]
    return [term for memory in memories for term in memory.terms._terms.values()]


def one_term(segmenter):
    return sum(segmenter.tracking.network.buffer(name).array.nbytes for name in ("C", "D"))


@pytest.mark.parametrize("room", [10**9, 8, 5, 1])
def test_masks_are_those_of_computing_again_over_many_replacements(tiny_bundle, disc, room):
    plain = load(tiny_bundle, 0, interval=1, memory=4)
    kept = load(tiny_bundle, interval=1, memory=4)
    kept.tracking.network.terms.budget = room * one_term(kept)
    for t in range(30):
        frame, mask = two_objects(disc, t % 12 if t > 3 else t)
        np.testing.assert_array_equal(kept.step(frame, mask), plain.step(frame, mask))
    held = [len(tracker.target.memory.terms) for tracker in kept.tracking.trackers.values()]
    # Of four slots, three pairs leave out the first; where both objects saw one crop, they hold one term.
    assert held[0] == min(3, room)
    assert len(kept.tracking.network.terms.kept) == min(room, len({id(t) for t in all_terms(kept)}))
    assert max(3, room - 3) >= held[1] >= min(3, max(room - 3, 0))
    for a, b in zip(kept.tracking.trackers.values(), plain.tracking.trackers.values(), strict=True):
        assert not len(b.target.memory.terms)
        for mine, theirs in zip(a.target.memory.frames, b.target.memory.frames, strict=True):
            for name in ("C", "D", "key_cross"):
                np.testing.assert_allclose(getattr(mine, name).array, getattr(theirs, name).array, rtol=1e-3, atol=1e-5)


def test_no_frame_that_leaves_is_computed_again_but_for_the_first_frames_terms(tiny_bundle, disc):
    segmenter = load(tiny_bundle, interval=1, memory=5)
    calls = {}
    for name, engine in segmenter.tracking.network.engines.items():

        def run(inputs, outputs, name=name, run=engine.run):
            calls[name] = calls.get(name, 0) + 1
            run(inputs, outputs)

        engine.run = run
    for t in range(20):
        segmenter.step(disc(t % 12)[0], disc(0)[1] if t == 0 else None)
    replaced = calls["memory_replace"]
    # Every replacement renews four pairs, one of them with the first frame.
    assert calls["memory_swap"] == 3 * replaced + 6
    assert calls["memory_add"] == 4


def test_a_restored_object_goes_on_to_the_bit(tiny_bundle, disc):
    whole, first, second = (load(tiny_bundle, interval=1, memory=4) for _ in range(3))
    room = 5 * one_term(whole)
    for segmenter in (whole, first, second):
        segmenter.tracking.network.terms.budget = room
    for t in range(11):
        frame, mask = two_objects(disc, t)
        whole.step(frame, mask)
        first.step(frame, mask)
    second.load_state_dict(first.state_dict())
    for t in range(11, 20):
        frame = disc(t % 12)[0]
        np.testing.assert_array_equal(whole.step(frame), second.step(frame))
    expected, found = whole.state_dict(), second.state_dict()
    assert len(expected["object1.target.memory0.terms"]) == 3
    assert len(expected["object9.target.memory1.terms"]) >= 2
    # Where both objects saw one crop, which a last bit may decide, they hold one term.
    terms = [{id(term) for term in all_terms(segmenter)} for segmenter in (whole, second)]
    assert len(terms[0]) == len(terms[1]) == len(whole.tracking.network.terms.kept)
    assert 3 <= len(terms[0]) <= 5 and len(second.tracking.network.terms.kept) == len(terms[1])
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_an_older_row_is_not_mistaken_for_a_newer_one():
    """Slots may be renewed in any order: only what the frame that stays took from the one that leaves is taken out."""
    from jointrt.runtime.cpu.lent import Pool
    from jointrt.runtime.cpu.onnxruntime_engine import Buffer

    pool = TermPool(Pool(lambda: {"C": Buffer.zeros(2), "D": Buffer.zeros(1)}), 12)
    terms = PairTerms(pool)
    assert not terms.wanted(1, 0, None)
    assert not terms.wanted(0, 1, None)
    assert terms.wanted(2, 1, None)
    kept = pool.new_term(apart=False)
    terms.keep(2, 1, kept)
    # Slot 1 is older, so that slot 2 holds what it took from it.
    assert terms.take(2, 1) is kept
    terms.keep(1, 2, kept)
    # Slot 1 is now the newer one, and leaves first all the same.
    assert terms.take(2, 1) is None
    assert len(terms) == 0
    pool.budget = 12 * 2
    both = [PairTerms(pool) for _ in range(2)]
    for one in both:
        one.keep(1, 2, kept)
    # Two memories of one term; a second term fits, a third does not unless another goes.
    assert terms.wanted(2, 1, None)
    terms.keep(2, 1, pool.new_term(apart=False))
    assert not terms.wanted(3, 1, None)
    assert terms.wanted(3, 1, kept)
    del both, one, kept
    assert terms.wanted(3, 1, None)
