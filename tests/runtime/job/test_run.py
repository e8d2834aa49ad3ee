import json
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from jointrt.errors import JointError, OutputError, SettingsError, VideoError
from jointrt.runtime.backends import choose, default_bundle
from jointrt.runtime.bundle import Bundle
from jointrt.runtime.job.console import summary
from jointrt.runtime.job.output import OutputFolder
from jointrt.runtime.job.pipeline import DEPTH, overlapped
from jointrt.runtime.job.run import Job, Request, identity
from jointrt.runtime.settings import Settings
from jointrt.runtime.tracking.protocol import Computed
from jointrt.runtime.video.masks import read_label_map, write_label_map
from jointrt.runtime.video.sources import open_source
from PIL import Image

SIZE = (48, 80)
COLOURS = {1: (220, 40, 40), 5: (40, 220, 60)}
COUNT = 14


class ColourFollower:
    """A small tracker with a memory: each object is where the frame is near its colour, which follows the light."""

    runs_on = "a test"

    def __init__(self, before_step=lambda n: None):
        self.colours = {}
        self.steps = 0
        self.before_step = before_step

    def step(self, frame, mask=None):
        self.before_step(self.steps)
        self.steps += 1
        labels = np.zeros(frame.shape[:2], np.uint8)
        for object_id, colour in self.colours.items():
            near = np.abs(frame - colour).sum(-1) < 60
            labels[near] = object_id
            if near.any():
                self.colours[object_id] = 0.5 * colour + 0.5 * frame[near].mean(0)
        if mask is not None:
            for object_id in np.unique(mask[mask > 0]).tolist():
                if object_id not in self.colours:
                    labels[mask == object_id] = object_id
                    self.colours[object_id] = frame[mask == object_id].mean(0)
        return labels

    def submit(self, frame, mask=None, *, correct=False):
        return Computed(self.step(frame, mask))

    def reset(self):
        self.colours = {}

    def state_dict(self):
        return {"ids": np.array(list(self.colours)), "colours": np.array(list(self.colours.values()))}

    def load_state_dict(self, state):
        self.colours = dict(zip(state["ids"].tolist(), state["colours"], strict=True))


class Notes:
    """Keeps what a run tells."""

    def __init__(self):
        self.notes, self.total, self.done, self.advanced = [], None, None, 0

    def begin(self, total, done):
        self.total, self.done = total, done

    def advance(self):
        self.advanced += 1

    def note(self, text):
        self.notes.append(text)


def truth(index):
    labels = np.zeros(SIZE, np.uint8)
    labels[8:24, 4 + 3 * index : 24 + 3 * index] = 1
    labels[28:44, 56 - 2 * index : 72 - 2 * index] = 5
    return labels


def picture(index):
    """Both objects darken from frame to frame, so that only one who remembers the last frame can follow them."""
    image = np.full((*SIZE, 3), 128, np.uint8)
    labels = truth(index)
    for object_id, colour in COLOURS.items():
        image[labels == object_id] = np.maximum(np.array(colour) - 3 * index, 0)
    return image


@pytest.fixture
def film(tmp_path):
    folder = tmp_path / "film"
    folder.mkdir()
    for index in range(COUNT):
        Image.fromarray(picture(index)).save(folder / f"{index:05d}.png")
    return folder


@pytest.fixture
def mask(tmp_path):
    write_label_map(tmp_path / "first.png", truth(0))
    return tmp_path / "first.png"


def run(film, mask, out, *, follower=None, identity=None, **options):
    display = Notes()
    job = Job.prepare(Request(source=film, mask=mask, out=out, **options))
    outcome = job.run(follower or ColourFollower(), identity or {"memory": 20}, display)
    return outcome, display


def labels_in(out):
    return {path.stem: read_label_map(path) for path in sorted((out / "masks").iterdir())}


def overlay_times(out):
    with av.open(str(out / "overlay.mp4")) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def assert_same(out, other):
    ours, theirs = labels_in(out), labels_in(other)
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def interrupt_at(step):
    def before_step(number):
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)

    return before_step


def test_folder_gives_a_mask_per_frame_and_an_overlay(film, mask, tmp_path):
    outcome, display = run(film, mask, tmp_path / "out")
    labels = labels_in(tmp_path / "out")
    assert list(labels) == [f"{i:05d}" for i in range(COUNT)]
    assert all(np.array_equal(labels[f"{i:05d}"], truth(i)) for i in range(COUNT))
    assert overlay_times(tmp_path / "out") == [Fraction(i, 24) for i in range(COUNT)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".written",
        "masks",
        "overlay.mp4",
        "report.json",
    ]
    assert (outcome.frames, outcome.objects, outcome.interrupted, outcome.damage) == (COUNT, 2, False, None)
    assert (display.total, display.done, display.advanced) == (COUNT, 0, COUNT)


def video(path, *, faststart=False):
    with av.open(str(path), "w", options={"movflags": "faststart"} if faststart else {}) as output:
        stream = output.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "1", "g": "1"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv444p"
        for index in range(COUNT):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        output.mux(stream.encode(None))
    return path


def test_video_range_names_masks_after_source_frames_and_keeps_times(mask, tmp_path):
    write_label_map(mask, truth(2))
    outcome, display = run(video(tmp_path / "a.mp4"), mask, tmp_path / "out", start=2, end=12, every=3)
    labels = labels_in(tmp_path / "out")
    assert list(labels) == ["00002", "00005", "00008", "00011"]
    assert (outcome.frames, display.total) == (4, 4)
    assert overlay_times(tmp_path / "out") == [Fraction(3 * i * 1001, 30000) for i in range(4)]
    for name, found in labels.items():
        assert (found != truth(int(name))).mean() < 0.02


def test_truncated_video_is_segmented_as_far_as_it_goes(mask, tmp_path):
    whole = video(tmp_path / "whole.mp4", faststart=True)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    outcome, _ = run(cut, mask, tmp_path / "out")
    readable = len(list(open_source(cut).frames()))
    assert 0 < readable < COUNT
    assert len(labels_in(tmp_path / "out")) == len(overlay_times(tmp_path / "out")) == outcome.frames == readable
    assert f"{readable} of its {COUNT} frames" in outcome.damage


def test_later_masks_add_objects(film, tmp_path):
    masks = tmp_path / "given"
    masks.mkdir()
    for index, wanted in ((1, 5), (6, 1)):
        write_label_map(masks / f"{index:05d}.png", np.where(truth(index) == wanted, truth(index), 0).astype(np.uint8))
    outcome, display = run(film, masks, tmp_path / "out")
    ids = {name: set(np.unique(labels).tolist()) for name, labels in labels_in(tmp_path / "out").items()}
    assert ids == {f"{i:05d}": {0, 5} if i < 6 else {0, 1, 5} for i in range(1, COUNT)}
    assert outcome.objects == 2
    assert "begins at frame 00001" in display.notes[0]


@pytest.mark.parametrize("step", [1, 6])
def test_interrupted_run_keeps_what_is_complete_and_resumes_exactly(film, mask, tmp_path, step):
    run(film, mask, tmp_path / "whole")
    out = tmp_path / "out"
    outcome, _ = run(film, mask, out, follower=ColourFollower(interrupt_at(step)))
    assert outcome.interrupted
    assert len(labels_in(out)) == len(overlay_times(out)) == outcome.frames == step + 1
    assert not [path for path in out.rglob("*") if path.name.endswith(".part")]
    with pytest.raises(OutputError, match="--resume"):
        run(film, mask, out)

    follower = ColourFollower()
    resumed, display = run(film, mask, out, follower=follower, resume=True)
    assert_same(out, tmp_path / "whole")
    assert follower.steps == resumed.segmented == COUNT - step - 1
    assert (display.done, resumed.frames) == (step + 1, COUNT)
    assert overlay_times(out) == overlay_times(tmp_path / "whole")
    assert sorted(path.name for path in out.iterdir()) == [".written", "masks", "overlay.mp4", "report.json"]
    with pytest.raises(OutputError, match="nothing to resume"):
        run(film, mask, out, resume=True)


def test_run_may_be_interrupted_again_and_again(film, mask, tmp_path):
    run(film, mask, tmp_path / "whole")
    for step in (3, 0, 2, 99):
        run(film, mask, tmp_path / "out", follower=ColourFollower(interrupt_at(step)), resume=True)
    assert_same(tmp_path / "out", tmp_path / "whole")


def killed(film, mask, out, step, state_at=None):
    """What a run that was killed after some frames leaves, with the state of an earlier frame or without any."""
    if state_at is not None:
        run(film, mask, out, follower=ColourFollower(interrupt_at(state_at)))
        kept = (out / ".resume.npz").read_bytes()
        run(film, mask, out, follower=ColourFollower(interrupt_at(step - state_at - 1)), resume=True)
        (out / ".resume.npz").write_bytes(kept)
    else:
        run(film, mask, out, follower=ColourFollower(interrupt_at(step)))
        (out / ".resume.npz").unlink()
    (out / "overlay.mp4").rename(out / ".overlay.mp4.part")
    (out / "masks" / f".{os.getpid()}.part").write_bytes(b"half")


@pytest.mark.parametrize("overlay", [True, False])
def test_a_killed_run_goes_on_exactly_from_the_last_state_that_was_stored(film, mask, tmp_path, overlay):
    run(film, mask, tmp_path / "whole", overlay=overlay)
    out = tmp_path / "out"
    killed(film, mask, out, 9, state_at=4)
    follower = ColourFollower()
    _, display = run(film, mask, out, follower=follower, resume=True, overlay=overlay)
    assert "goes on after 5 frames" in display.notes[0]
    assert follower.steps == COUNT - 5
    assert_same(out, tmp_path / "whole")
    reports = [json.loads((folder / "report.json").read_text()) for folder in (out, tmp_path / "whole")]
    assert reports[0]["objects"] == reports[1]["objects"] and reports[0]["frames"] == COUNT


def test_a_run_that_was_killed_before_its_first_state_begins_anew(film, mask, tmp_path):
    run(film, mask, tmp_path / "whole")
    out = tmp_path / "out"
    killed(film, mask, out, 5)
    follower = ColourFollower()
    _, display = run(film, mask, out, follower=follower, resume=True)
    assert "begins anew" in display.notes[0]
    assert follower.steps == COUNT
    assert_same(out, tmp_path / "whole")
    assert sorted(path.name for path in out.rglob("*") if path.name.startswith(".")) == [".written"]


def test_the_state_is_stored_as_the_run_goes(film, mask, tmp_path, monkeypatch):
    """Every few frames, and never before the masks that it stands behind."""
    monkeypatch.setattr("jointrt.runtime.job.run.STATE_EVERY", 4)
    found = []

    def look(self, frame, state):
        masks = sorted(path.stem for path in self.masks.glob("*.png"))
        found.append((frame, masks[-1]))
        return stored(self, frame, state)

    stored = OutputFolder.save_state
    monkeypatch.setattr(OutputFolder, "save_state", look)
    run(film, mask, tmp_path / "out")
    assert found == [(3, "00003"), (7, "00007"), (11, "00011")]


def test_resuming_otherwise_is_refused(film, mask, tmp_path):
    out = tmp_path / "out"
    run(film, mask, out, follower=ColourFollower(interrupt_at(5)))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = tmp_path / "other.png"
    write_label_map(other, truth(1))
    for said, change in {
        "begun with memory 20, not 10": {"identity": {"memory": 10}},
        "begun with end None, not 9": {"end": 9},
        "begun with every 1, not 2": {"every": 2},
        "another mask": {"mask": other},
    }.items():
        with pytest.raises(OutputError, match=said):
            run(film, **{"mask": mask, "out": out, "resume": True, **change})
    Image.fromarray(picture(0)).save(film / "00099.png")
    with pytest.raises(OutputError, match="another source"):
        run(film, mask, out, resume=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_overwrite_replaces_all_earlier_results(film, mask, tmp_path):
    out = tmp_path / "out"
    run(film, mask, out)
    with pytest.raises(OutputError, match=r"14 masks and an overlay.*--overwrite"):
        run(film, mask, out, end=3)
    run(film, mask, out, end=3, overwrite=True, overlay=False)
    assert list(labels_in(out)) == ["00000", "00001", "00002"]
    assert sorted(path.name for path in out.iterdir()) == [".written", "masks", "report.json"]


def test_overwrite_removes_nothing_that_no_run_wrote(film, mask, tmp_path):
    out = tmp_path / "out"
    run(film, mask, out)
    Image.new("RGB", (8, 8)).save(out / "masks" / "mine.png")
    write_label_map(out / "masks" / "other.png", truth(0))
    _, display = run(film, mask, out, end=3, overwrite=True)
    assert list(labels_in(out)) == ["00000", "00001", "00002", "mine", "other"]
    assert any(note.startswith("note: 2 PNGs") for note in display.notes)


def test_what_lay_in_a_folder_before_the_first_run_stays(film, mask, tmp_path):
    out = tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    write_label_map(out / "masks" / "annotation.png", truth(0))
    mine = {name: out / name for name in ("report.json", "overlay.mp4", ".download.part", "masks/.a.png.part")}
    for file in mine.values():
        file.write_text("mine")
    with pytest.raises(OutputError, match="holds 1 mask and an overlay and a report: give --overwrite"):
        run(film, mask, out)
    run(film, mask, out, overwrite=True, overlay=False, end=2)
    assert sorted(path.name for path in (out / "masks").iterdir()) == [
        ".a.png.part",
        "00000.png",
        "00001.png",
        "annotation.png",
    ]
    assert json.loads(mine.pop("report.json").read_text())["frames"] == 2
    assert all(file.read_text() == "mine" for file in mine.values())


def test_a_list_of_written_files_reaches_nothing_outside(film, mask, tmp_path):
    out = tmp_path / "out"
    run(film, mask, out, end=2)
    (out / ".written").write_bytes(b"\0".join([b"../first.png", b"../../first.png", os.fsencode(mask), b"00001.png"]))
    run(film, mask, out, end=1, overwrite=True)
    assert mask.exists() and list(labels_in(out)) == ["00000"]


def test_objects_that_were_gone_and_came_back_are_told(film, mask, tmp_path):
    for index in (4, 5, 9):
        image = np.array(Image.open(film / f"{index:05d}.png"))
        image[truth(index) == 5] = 128
        Image.fromarray(image).save(film / f"{index:05d}.png")
    outcome, _ = run(film, mask, tmp_path / "out", end=12)
    objects = json.loads((tmp_path / "out" / "report.json").read_text())["objects"]
    assert objects["5"]["found_again"] == [
        {"lost_from": "00004", "found": "00006"},
        {"lost_from": "00009", "found": "00010"},
    ]
    assert objects["1"]["found_again"] == [] and objects["5"]["frames_seen"] == 9
    assert outcome.found == {5: ("00009", "00010")} and outcome.lost == {}
    assert "(5 lost from 00009, found in 00010)" in summary(outcome, Request(source=film, mask=mask, out=tmp_path))


def test_the_report_says_what_became_of_each_object(film, mask, tmp_path):
    outcome, _ = run(film, mask, tmp_path / "out")
    objects = json.loads((tmp_path / "out" / "report.json").read_text())["objects"]
    for object_id in (1, 5):
        areas = [int((truth(i) == object_id).sum()) for i in range(COUNT)]
        seen = [i for i, area in enumerate(areas) if area]
        found = objects[str(object_id)]
        assert found["frames_seen"] == len(seen)
        areas = [area for area in areas if area]
        assert found["area"] == {"least": min(areas), "median": np.median(areas), "largest": max(areas)}
        assert found["lost_from"] == (None if seen[-1] == COUNT - 1 else f"{seen[-1] + 1:05d}")
    assert outcome.lost == {}


def test_failure_of_the_reader_ends_the_run_with_its_message(film, mask, tmp_path):
    (film / "00009.png").write_bytes((film / "00009.png").read_bytes()[:150])
    with pytest.raises(VideoError, match=r"00009\.png cannot be read.*; 9 masks are complete in"):
        run(film, mask, tmp_path / "out")
    assert len(labels_in(tmp_path / "out")) == len(overlay_times(tmp_path / "out")) == 9


def test_resumed_run_without_overlay_leaves_no_overlay_of_a_part(film, mask, tmp_path):
    run(film, mask, tmp_path / "out", follower=ColourFollower(interrupt_at(4)))
    run(film, mask, tmp_path / "out", resume=True, overlay=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".written", "masks", "report.json"]


def test_failure_of_the_writer_ends_the_run_with_its_message(film, mask, tmp_path):
    out = tmp_path / "out"

    def block(number):
        if number == 3:
            (out / "masks" / "00005.png").mkdir()

    with pytest.raises(OutputError, match=r"00005\.png cannot be written.*; 5 masks are complete in"):
        run(film, mask, out, follower=ColourFollower(block))
    assert len(overlay_times(out)) == 5


def test_failure_of_the_inference_ends_the_run_with_its_message(film, mask, tmp_path):
    def fail(number):
        if number == 4:
            raise JointError("the engine stopped")

    before = threading.active_count()
    with pytest.raises(JointError, match="the engine stopped; 4 masks are complete"):
        run(film, mask, tmp_path / "out", follower=ColourFollower(fail))
    assert threading.active_count() <= before


def test_failure_at_the_first_frame_leaves_nothing(film, mask, tmp_path):
    def fail(number):
        raise JointError("the engine did not start")

    with pytest.raises(JointError, match=r"the engine did not start$"):
        run(film, mask, tmp_path / "deep" / "out", follower=ColourFollower(fail))
    assert not (tmp_path / "deep").exists()


def test_bad_requests_are_refused_before_anything_is_written(film, mask, tmp_path):
    (tmp_path / "file").touch()
    for said, change in {
        "every is 0": {"every": 0},
        "start is -1": {"start": -1},
        "start is 14: expected less than 14": {"start": 14},
        "end is 3: expected more than start, 3": {"start": 3, "end": 3},
        "both overwrite and resume": {"overwrite": True, "resume": True},
    }.items():
        with pytest.raises(SettingsError, match=said):
            run(film, mask, tmp_path / "out", **change)
    with pytest.raises(OutputError, match="is a file"):
        run(film, mask, tmp_path / "file" / "out")
    for option in ("source", "mask", "out"):
        paths = {"source": film, "mask": mask, "out": tmp_path / "out", option: tmp_path / ("n" * 300)}
        with pytest.raises(JointError, match=r"nnn cannot be .*too long"):
            Job.prepare(Request(**paths))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "film", "first.png"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 96 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "none", place]).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_ends_the_run_in_one_line_and_what_is_there_is_whole(film, mask, small_disk, tmp_path):
    run(film, mask, tmp_path / "whole", overlay=False)
    out = small_disk / "out"
    (small_disk / "ballast").write_bytes(bytes(68 << 10))
    with pytest.raises(OutputError, match="cannot be written: No space left on device") as caught:
        run(film, mask, out, overlay=False)
    assert "\n" not in str(caught.value)
    found, whole = labels_in(out), labels_in(tmp_path / "whole")
    assert 0 < len(found) < COUNT and all(np.array_equal(whole[name], labels) for name, labels in found.items())
    (small_disk / "ballast").unlink()
    run(film, mask, out, overlay=False, resume=True)
    assert_same(out, tmp_path / "whole")


def test_a_disk_that_becomes_read_only_ends_the_run_in_one_line_and_it_goes_on_later(film, mask, small_disk, tmp_path):
    run(film, mask, tmp_path / "whole", overlay=False)
    out = small_disk / "out"

    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", small_disk], check=True)

    with pytest.raises(OutputError, match="cannot be written: Read-only file system") as caught:
        run(film, mask, out, follower=ColourFollower(lambda n: n == 5 and remount("ro")), overlay=False)
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match="cannot be written"):
        run(film, mask, out, overlay=False, resume=True)
    remount("rw")
    run(film, mask, out, overlay=False, resume=True)
    assert_same(out, tmp_path / "whole")


def test_a_folder_that_is_removed_while_a_run_writes_ends_it_in_one_line(film, mask, tmp_path):
    def remove(number):
        if number == 4:
            # At once: what is written meanwhile may not come between.
            (tmp_path / "out").rename(tmp_path / "gone")

    with pytest.raises(OutputError, match="cannot be written") as caught:
        run(film, mask, tmp_path / "out", follower=ColourFollower(remove), overlay=False)
    assert "\n" not in str(caught.value)


def test_a_run_that_is_killed_ends_with_the_same_bytes(tiny_bundle, tmp_path):
    """The command itself, with the shipped weights, killed before and after it first stored its state."""
    frames, count = tmp_path / "film", 140
    frames.mkdir()
    for index in range(count):
        Image.fromarray(picture(index % COUNT)).save(frames / f"{index:05d}.png")
    write_label_map(tmp_path / "first.png", truth(0))
    command = [sys.executable, "-m", "jointrt.cli", "run", str(frames), "--mask", str(tmp_path / "first.png")]
    command += ["--threads", "1", "--no-overlay", "--bundle", str(tiny_bundle.folder)]
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    out = tmp_path / "out"
    for again, wanted in (([], 40), (["--resume"], 104)):
        with subprocess.Popen([*command, "-o", str(out), *again], stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not (out / "masks" / f"{wanted:05d}.png").exists():
                time.sleep(0.005)
            process.kill()
    done = subprocess.run([*command, "-o", str(out), "--resume"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "goes on after 100 frames" in done.stderr
    for mask in sorted((tmp_path / "whole/masks").iterdir()):
        assert (out / "masks" / mask.name).read_bytes() == mask.read_bytes()
    assert len(list((out / "masks").iterdir())) == count


def test_results_never_replace_the_inputs(film, mask, tmp_path):
    (tmp_path / "masks").mkdir()
    given = mask.rename(tmp_path / "masks" / "00000.png")
    for source in (given, given.parent):
        with pytest.raises(OutputError, match="where the results go"):
            run(film, source, tmp_path, overwrite=True)
    assert given.exists()


def test_record_of_an_unfinished_run_is_readable(film, mask, tmp_path):
    run(film, mask, tmp_path / "out", follower=ColourFollower(interrupt_at(2)))
    record = json.loads((tmp_path / "out" / ".run.json").read_text())
    assert (record["memory"], record["every"], record["start"]) == (20, 1, 0)


class Slow:
    """A sink that takes its time, and knows how far ahead of it the others are."""

    def __init__(self):
        self.written = 0
        self.closed = False

    def write(self, result):
        time.sleep(0.005)
        self.written += 1

    def close(self):
        self.closed = True


def test_queues_are_bounded():
    sink, ahead, read = Slow(), [], []

    def items():
        for number in range(40):
            read.append(number)
            yield number

    def work(item):
        ahead.append((item - sink.written, len(read) - sink.written))
        return item

    assert overlapped(items(), work, sink, threading.Event())
    assert (sink.written, sink.closed) == (40, True)
    assert max(a for a, _ in ahead) <= DEPTH + 1
    assert max(r for _, r in ahead) <= 2 * DEPTH + 4
    assert max(r for _, r in ahead) > DEPTH, "reading runs ahead"


def test_a_run_is_resumed_only_by_what_began_it(tmp_path):
    """Every two ways to run a bundle differ in some entry of the identity, and a resumed run compares both ways."""
    bundle = Bundle.open("lite")
    ways = [
        ("onnxruntime", "cpu"),
        ("openvino", "cpu"),
        ("openvino:bf16", "cpu"),
        ("torch", "cpu"),
        ("torch:fp16", "cpu"),
    ]
    ways += [("torch:fp16", "cuda"), ("torch:fp32", "cuda")]
    settings = Settings.resolve(bundle.manifest.defaults)
    records = [identity(bundle, choose(bundle, backend, device=device), settings) for backend, device in ways]
    records.append({k: v for k, v in records[0].items() if k != "precision"})
    for begun in records:
        output = OutputFolder(tmp_path / "out")
        output.begin(begun, resume=False, overlay=False)
        for record in records:
            if record is begun:
                assert output.refuse_other_run(record)
            else:
                with pytest.raises(OutputError, match="was begun with"):
                    output.refuse_other_run(record)


@pytest.mark.parametrize(
    ("backend", "device", "name"), [("auto", "cpu", "lite-int8"), ("torch", "cpu", "lite"), ("auto", "cuda", "lite")]
)
def test_the_default_bundle_is_one_that_the_backend_runs(backend, device, name):
    assert default_bundle(backend, device) == name
    choose(Bundle.open(name), backend, device=device)
