"""Runs whose first mask lies in the middle. Their truth is drawn: objects change light, and only memory keeps them."""

import importlib.util
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from jointrt.errors import OutputError, SettingsError, VideoError
from jointrt.runtime.video.masks import write_label_map
from jointrt.runtime.video.sources import open_source

spec = importlib.util.spec_from_file_location("test_run_parts", Path(__file__).with_name("test_run.py"))
parts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parts)
COUNT, ColourFollower, film = parts.COUNT, parts.ColourFollower, parts.film
assert_same, interrupt_at, labels_in = parts.assert_same, parts.interrupt_at, parts.labels_in
overlay_times, run, truth, video = parts.overlay_times, parts.run, parts.truth, parts.video
MIDDLE = 6


@pytest.fixture
def mask(tmp_path):
    write_label_map(tmp_path / "middle.png", truth(MIDDLE))
    return tmp_path / "middle.png"


@pytest.fixture
def whole(film, mask, tmp_path):
    run(film, mask, tmp_path / "whole", start_mask=MIDDLE)
    return tmp_path / "whole"


@pytest.mark.parametrize("overlay", [True, False])
def test_a_mask_in_the_middle_goes_both_ways_into_one_result(film, mask, tmp_path, overlay):
    out, follower = tmp_path / "out", ColourFollower()
    outcome, display = run(film, mask, out, follower=follower, start_mask=MIDDLE, overlay=overlay)
    labels = labels_in(out)
    assert list(labels) == [f"{i:05d}" for i in range(COUNT)]
    assert all(np.array_equal(labels[f"{i:05d}"], truth(i)) for i in range(COUNT))
    # The frame of the mask is shown on either way.
    assert follower.steps == COUNT + 1
    assert (outcome.frames, outcome.segmented, outcome.objects) == (COUNT, COUNT, 2)
    assert (display.total, display.done, display.advanced) == (COUNT, 0, COUNT)
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == COUNT
    seen = [(o["frames_seen"], o["first_seen"], o["last_seen"]) for o in report["objects"].values()]
    assert seen == [(COUNT, "00000", "00013")] * 2
    if overlay:
        assert overlay_times(out) == [Fraction(i, 24) for i in range(COUNT)]


def test_start_end_and_every_hold_on_both_ways(film, mask, tmp_path):
    out = tmp_path / "out"
    _, display = run(film, mask, out, start_mask=MIDDLE, start=1, end=12, every=2)
    assert list(labels_in(out)) == ["00002", "00004", "00006", "00008", "00010"]
    assert display.total == display.advanced == 5


@pytest.mark.parametrize("step", [1, 4, 6, 7, 10])
def test_it_is_resumed_exactly_on_either_way(film, mask, whole, tmp_path, step):
    out = tmp_path / "out"
    outcome, _ = run(film, mask, out, follower=ColourFollower(interrupt_at(step)), start_mask=MIDDLE)
    assert outcome.interrupted and outcome.objects == 2
    # Step 0 shows the objects; it writes nothing.
    assert len(labels_in(out)) == outcome.frames == step
    with pytest.raises(OutputError, match="begun with start 0, not 6"):
        run(film, mask, out, resume=True, start=MIDDLE)
    follower = ColourFollower()
    resumed, display = run(film, mask, out, follower=follower, resume=True, start_mask=MIDDLE)
    assert_same(out, whole)
    assert (display.done, resumed.frames) == (step, COUNT)
    assert follower.steps == COUNT - step
    assert overlay_times(out) == overlay_times(whole)
    reports = [json.loads((folder / "report.json").read_text())["objects"] for folder in (out, whole)]
    assert reports[0] == reports[1]


def test_it_may_be_interrupted_again_and_again(film, mask, whole, tmp_path):
    for step in (0, 2, 1, 0, 1, 0, 99):
        run(film, mask, tmp_path / "out", follower=ColourFollower(interrupt_at(step)), resume=True, start_mask=MIDDLE)
    assert_same(tmp_path / "out", whole)


@pytest.mark.parametrize("step", [3, 9])
def test_a_killed_run_goes_on_from_its_last_state(film, mask, whole, tmp_path, step, monkeypatch):
    """Of the states that are stored every 2 frames, the last one but one is left, and a mask behind it."""
    monkeypatch.setattr("jointrt.runtime.job.run.STATE_EVERY", 2)
    states = []

    def keep(self, frame, state):
        stored(self, frame, state)
        states.append((frame, self.state.read_bytes()))

    stored = parts.OutputFolder.save_state
    monkeypatch.setattr(parts.OutputFolder, "save_state", keep)
    out = tmp_path / "out"
    run(film, mask, out, follower=ColourFollower(interrupt_at(step)), start_mask=MIDDLE)
    frame, content = states[-2]
    assert frame == (4 if step == 3 else 7)
    (out / ".resume.npz").write_bytes(content)
    follower = ColourFollower()
    _, display = run(film, mask, out, follower=follower, resume=True, start_mask=MIDDLE, overlay=False)
    assert display.done == (2 if step == 3 else 8)
    assert_same(out, whole)


def test_a_folder_of_masks_goes_backwards_from_its_first(film, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    for index, wanted in ((4, 1), (8, 5)):
        write_label_map(given / f"{index:05d}.png", np.where(truth(index) == wanted, truth(index), 0).astype(np.uint8))
    _, display = run(film, given, tmp_path / "out", backward=True)
    ids = {name: set(np.unique(labels).tolist()) for name, labels in labels_in(tmp_path / "out").items()}
    assert ids == {f"{i:05d}": {0, 1} if i < 8 else {0, 1, 5} for i in range(COUNT)}
    assert display.notes == ["backwards from frame 00004 only its objects are followed, not those of later masks: 5"]
    _, display = run(film, given, tmp_path / "late", backward=True, start=4)
    assert next(iter(labels_in(tmp_path / "late"))) == "00004"
    assert "nothing goes backwards" in display.notes[0]
    _, display = run(film, given, tmp_path / "forwards")
    assert "--backward segments those before it too" in display.notes[0]


def test_a_film_is_read_backwards_in_parts(mask, tmp_path, monkeypatch):
    source = open_source(video(tmp_path / "a.mp4"))
    forwards = list(source.frames())
    for held in (1, 4 * forwards[0].image.nbytes, 1 << 20):
        monkeypatch.setattr("jointrt.runtime.video.sources.MOST_HELD", held)
        found = list(source.backwards(12, 1, 3))
        assert [f.index for f in found] == [12, 9, 6, 3]
        assert all(np.array_equal(f.image, forwards[f.index].image) for f in found)
        assert [(f.name, f.time) for f in found] == [(forwards[f.index].name, forwards[f.index].time) for f in found]
    with pytest.raises(VideoError, match="frame 20 cannot be read: the video ends before it"):
        list(source.backwards(20, 3))
    run(tmp_path / "a.mp4", mask, tmp_path / "out", start_mask=MIDDLE)
    assert all((labels != truth(int(name))).mean() < 0.02 for name, labels in labels_in(tmp_path / "out").items())
    assert overlay_times(tmp_path / "out") == [f.time for f in forwards]


def test_masks_that_lie_nowhere_are_refused(film, mask, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    write_label_map(folder / "00004.png", truth(4))
    for message, given, options in (
        ("start-mask is 14: expected less than 14", mask, {"start_mask": 14}),
        ("start-mask is -1: expected 0 or more", mask, {"start_mask": -1}),
        ("start-mask is 9: expected 2 to 8", mask, {"start_mask": 9, "start": 2, "end": 9}),
        ("is a folder, whose masks are named like", folder, {"start_mask": 4}),
        ("belongs to frame 3, the first, so nothing", mask, {"backward": True, "start": 3}),
    ):
        with pytest.raises(SettingsError, match=message):
            run(film, given, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
