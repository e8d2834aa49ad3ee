"""Evaluations of small folders whose figures follow from their geometry."""

import base64
import csv
import json
import os
import re
import shutil
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from jointrt.benchmarks.accuracy.baselines import FirstMask, FlowWarp
from jointrt.benchmarks.accuracy.datasets import choose_sequences, open_dataset
from jointrt.benchmarks.accuracy.evaluate import EvaluationRequest, evaluate
from jointrt.cli import main
from jointrt.errors import DatasetError, JointError, MaskError, OutputError, SettingsError
from PIL import Image

SIZE = (64, 96)
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
HEADER = "sequence,object,J_mean,J_recall,J_decay,F_mean,F_recall,F_decay,JF_mean"
TWO, ONE = 12, 10
"""Frames of the sequence with two objects, and of the black and white one."""


class Progress:
    def __init__(self):
        self.total, self.done, self.notes = 0, 0, []

    def begin(self, total, done):
        self.total, self.done = total, done

    def advance(self):
        self.done += 1

    def note(self, text):
        self.notes.append(text)


def rectangles(*boxes):
    """Label map with 20x20 squares (id, row, column)."""
    labels = np.zeros(SIZE, np.uint8)
    for i, row, column in boxes:
        labels[row : row + 20, column : column + 20] = i
    return labels


def save_palette(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    image.putpalette(PALETTE + [0] * (768 - len(PALETTE)))
    image.save(path)


def save_grey(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(mask > 0, 255, 0).astype(np.uint8)).save(path)


def save_frame(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def two_objects(t):
    return rectangles((1, 4, 5 + t), (2, 40, 60 - t))


def one_object(t):
    return rectangles((1, 20, 10 + 3 * t))


@pytest.fixture
def davis(tmp_path):
    """A DAVIS folder: `pair` as in 2017 (palette), `solo` as in 2016 (black and white)."""
    root = tmp_path / "davis"
    for t in range(TWO):
        save_frame(root / f"JPEGImages/480p/pair/{t:05d}.jpg", t)
        save_palette(root / f"Annotations/480p/pair/{t:05d}.png", two_objects(t))
    for t in range(ONE):
        save_frame(root / f"JPEGImages/480p/solo/{t:05d}.jpg", t)
        save_grey(root / f"Annotations/480p/solo/{t:05d}.png", one_object(t))
    return root


@pytest.fixture
def results(tmp_path):
    """Object 1 of `pair` lies 5 columns off, object 2 is right; `solo` is right, then lost from its middle on."""
    folder = tmp_path / "results"
    for t in range(TWO):
        labels = rectangles((1, 4, 10 + t), (2, 40, 60 - t))
        save_palette(folder / f"pair/{t:05d}.png", labels if 0 < t < TWO - 1 else np.zeros(SIZE, np.uint8))
    for t in range(ONE):
        found = one_object(t) if 0 < t < ONE // 2 else np.zeros(SIZE, np.uint8)
        save_grey(folder / f"solo/{t:05d}.png", found)
    return folder


def figures(path):
    text = path.read_text()
    assert text.splitlines()[0] == HEADER
    table = list(csv.reader(text.splitlines()[1:]))
    return {(row[0], row[1]): [float(value) for value in row[2:]] for row in table}, [row[0] for row in table]


def test_figures_follow_from_the_geometry(davis, results, tmp_path):
    file, progress = tmp_path / "figures.csv", Progress()
    evaluate(EvaluationRequest(root=davis, results=results, processes=1, csv=file), progress)
    rows, names = figures(file)
    assert names == ["pair", "pair", "solo", "mean"]
    assert rows["pair", "1"][:3] == pytest.approx([300 / 500, 1, 0])
    assert rows["pair", "2"] == pytest.approx([1, 1, 0, 1, 1, 0, 1])
    assert rows["solo", "1"] == pytest.approx([0.5, 0.5, 1, 0.5, 0.5, 1, 0.5])
    assert rows["mean", ""] == pytest.approx(np.mean([rows[k] for k in rows if k[0] != "mean"], axis=0))
    assert progress.done == progress.total == TWO + ONE


def test_single_object_joins_all(davis, results, tmp_path):
    """Of 800 pixels 700 are met and 100 are wrong: 700 / 900."""
    file = tmp_path / "figures.csv"
    request = EvaluationRequest(root=davis, results=results, single_object=True, sequences=("pair",), csv=file)
    evaluate(request, Progress())
    rows, _ = figures(file)
    assert set(rows) == {("pair", "1"), ("mean", "")}
    assert rows["pair", "1"][0] == pytest.approx(700 / 900)


def test_processes_change_nothing(davis, results, tmp_path):
    for processes in (1, 2):
        request = EvaluationRequest(
            root=davis, results=results, processes=processes, csv=tmp_path / f"{processes}.csv", html=tmp_path / "page"
        )
        progress = Progress()
        evaluate(request, progress)
        assert progress.done == TWO + ONE
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_failure_in_a_process_names_the_file(davis, results):
    save_palette(results / "pair/00004.png", np.full(SIZE, 3, np.uint8))
    with pytest.raises(DatasetError, match=r"pair/00004\.png.*ids 3"):
        evaluate(EvaluationRequest(root=davis, results=results, processes=2), Progress())


LISTS = "ImageSets/2017/val.txt"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d, r: (r / "pair/00003.png").unlink(), r"pair lacks 1 of 12 masks: 00003"),
        (lambda d, r: shutil.rmtree(r / "solo"), r"lacks 1 of 2 sequences: solo"),
        (lambda d, r: save_palette(r / "pair/00012.png", two_objects(0)), r"masks of no frame of pair: 00012"),
        (lambda d, r: save_palette(r / "pair/00002.png", two_objects(0)[:-2]), r"00002\.png is 96x62, .* 96x64"),
        (lambda d, r: save_palette(r / "pair/00002.png", np.full(SIZE, 4, np.uint8)), r"00002\.png holds ids 4"),
        (lambda d, r: (d / "JPEGImages/480p/solo/00009.jpg").unlink(), r"solo: 1 annotations have no frame .*: 00009"),
        (lambda d, r: (d / "Annotations/480p/solo/00004.png").unlink(), r"solo: 1 of 10 frames have no annotation"),
        (lambda d, r: [p.unlink() for p in d.glob("*/480p/solo/00004.*")], r"solo: 1 frames are missing .*: 00004"),
        (lambda d, r: save_grey(d / "Annotations/480p/solo/00002.png", np.ones((9, 9))), r"00002\.png is 9x9"),
        (lambda d, r: save_grey(d / "Annotations/480p/solo/00000.png", np.zeros(SIZE)), r"00000\.png is empty"),
        (lambda d, r: shutil.rmtree(d / "JPEGImages/480p/solo"), r"no sequence 'solo'"),
        (lambda d, r: write(d / LISTS, "pair\nsolo\nlost\n"), r"lacks 1 of the 3 sequences .*: lost"),
        (lambda d, r: write(d / LISTS, "../davis\n"), r"lacks 1 of the 1|is no sequence"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(davis, results, damage, message):
    """What concerns one sequence leaves that one out."""
    damage(davis, results)
    progress = Progress()
    try:
        left_out = evaluate(EvaluationRequest(root=davis, results=results, processes=1), progress).left_out
    except DatasetError as error:
        assert re.search(message, str(error))
    else:
        assert left_out == ("solo",)
        assert any(re.search(message, note) for note in progress.notes)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_lists_of_both_years(davis):
    write(davis / "ImageSets/2017/val.txt", "pair\nsolo\n")
    write(davis / "ImageSets/2016/val.txt", "solo\n")
    write(davis / "ImageSets/480p/train.txt", "".join(f"/JPEGImages/480p/pair/{t}.jpg /A/pair/{t}.png\n" for t in "01"))
    assert open_dataset(davis).names == ("pair", "solo")
    assert open_dataset(davis, single_object=True).names == ("solo",)
    assert open_dataset(davis, split="train").names == ("pair",)
    with pytest.raises(DatasetError, match=r"no list test\.txt"):
        open_dataset(davis, split="test")


def test_undecided_pixels_are_background(davis):
    labels = two_objects(0)
    labels[:2] = 255
    save_palette(davis / "Annotations/480p/pair/00000.png", labels)
    (pair,) = choose_sequences(open_dataset(davis), ["pair"])
    assert np.array_equal(pair.truth("00000"), two_objects(0))
    assert tuple(pair.scored) == (1, 2)


def test_resumed_evaluation_makes_only_what_is_missing(davis, tmp_path):
    out = tmp_path / "out"
    request = {"root": davis, "baseline": "first-mask", "out": out, "processes": 1}
    whole = evaluate(EvaluationRequest(**request), Progress())
    first = {p.name: p.read_bytes() for p in (out / "solo").glob("*.png")}
    kept = (out / "pair/00003.png").stat().st_mtime_ns
    shutil.rmtree(out / "solo")
    again = evaluate(EvaluationRequest(**request, resume=True), Progress())
    assert again.scores == whole.scores
    assert {p.name: p.read_bytes() for p in (out / "solo").glob("*.png")} == first
    assert (out / "pair/00003.png").stat().st_mtime_ns == kept
    with pytest.raises(OutputError, match="--resume"):
        evaluate(EvaluationRequest(**request), Progress())
    with pytest.raises(OutputError, match="baseline first-mask, not flow"):
        evaluate(EvaluationRequest(**{**request, "baseline": "flow"}, resume=True), Progress())
    evaluate(EvaluationRequest(**request, overwrite=True), Progress())
    assert (out / "pair/00003.png").stat().st_mtime_ns != kept


def test_failed_sequence_leaves_no_folder(davis, tmp_path):
    truth = davis / "Annotations/480p/pair/00005.png"
    request = EvaluationRequest(root=davis, baseline="flow", out=tmp_path / "out", processes=1)
    truth.write_bytes(truth.read_bytes()[:-40])
    for processes in (1, 2):
        progress = Progress()
        found = evaluate(replace(request, processes=processes, overwrite=True), progress)
        assert found.left_out == ("pair",) and [s.sequence for s in found.scores] == ["solo"]
        assert any("00005.png" in note for note in progress.notes) and found.facts["left out"] == "pair"
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["solo"]
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(MaskError, match=r"00005\.png"):
        evaluate(replace(request, sequences=("pair",)), Progress())
    assert list((tmp_path / "out").iterdir()) == []
    truth.write_bytes(b"")
    progress = Progress()
    assert evaluate(request, progress).left_out == ("pair",)
    assert any("00005.png" in note for note in progress.notes)


def test_page_shows_the_worst_frames_and_needs_no_other_file(davis, results, tmp_path):
    for folder in (davis / "JPEGImages/480p", davis / "Annotations/480p", results):
        (folder / "solo").rename(folder / "a<b")
    save_palette(results / "pair/00007.png", np.zeros(SIZE, np.uint8))
    page = tmp_path / "page.html"
    evaluate(EvaluationRequest(root=davis, results=results, processes=1, html=page), Progress())
    text = page.read_text()
    assert not re.search(r"(src|href)=\"(?!data:image/jpeg;base64,)|https?:|a<b", text)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(captions) == 9
    assert {"pair, object 1, frame 00007: J 0.000, F 0.000", "pair, object 2, frame 00007: J 0.000, F 0.000"} <= set(
        captions
    )
    number = captions.index("pair, object 1, frame 00007: J 0.000, F 0.000")
    jpeg = base64.b64decode(re.findall(r"base64,([^\"]*)", text)[number])
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1].astype(int)
    missed = picture[6:22, 14:30].reshape(-1, 3).mean(axis=0)
    assert missed[0] > missed[1] > missed[2] + 80


@pytest.fixture
def youtube(tmp_path):
    """A YouTube-VOS folder: object 2 starts in frame 10 of `v1`; every frame of `v1` is annotated, of `v2` one."""
    root = tmp_path / "youtube"
    names = [f"{5 * n:05d}" for n in range(6)]
    for video in ("v1", "v2"):
        for name in names:
            save_frame(root / f"JPEGImages/{video}/{name}.jpg")
    for n, name in enumerate(names):
        boxes = [(1, 4, 5)] + [(2, 40, 50)] * (n >= 2)
        save_palette(root / f"Annotations/v1/{name}.png", rectangles(*boxes))
    save_palette(root / "Annotations/v2/00005.png", rectangles((3, 10, 10)))
    listed = {
        "v1": {"1": {"category": "cat", "frames": names[:5]}, "2": {"category": "dog", "frames": names[2:5]}},
        "v2": {"3": {"category": "cat", "frames": names[1:]}},
    }
    write(root / "meta.json", json.dumps({"videos": {k: {"objects": v} for k, v in listed.items()}}))
    return root


def test_youtube_objects_start_later_and_only_listed_frames_are_handed_in(youtube, tmp_path):
    archives = []
    for run in ("a", "b"):
        progress = Progress()
        request = EvaluationRequest(root=youtube, baseline="first-mask", out=tmp_path / run, processes=1)
        evaluation = evaluate(request, progress)
        archives.append(evaluation.submission.read_bytes())
    assert archives[0] == archives[1]
    assert [(s.sequence, s.object_id, s.frames) for s in evaluation.scores] == [
        ("v1", 1, ("00005", "00010", "00015", "00020")),
        ("v1", 2, ("00015", "00020")),
    ]
    assert evaluation.mean.JF_mean == 1
    assert evaluation.unscored == ("v2",)
    assert any("v2" in note for note in progress.notes)
    with zipfile.ZipFile(evaluation.submission) as archive:
        assert archive.namelist() == [f"Annotations/v1/{5 * n:05d}.png" for n in range(5)] + [
            f"Annotations/v2/{5 * n:05d}.png" for n in range(1, 6)
        ]
        with archive.open("Annotations/v1/00010.png") as stream, Image.open(stream) as image:
            assert image.mode == "P"
            assert image.getpalette()[3:9] == PALETTE[3:9]
            assert np.array_equal(np.array(image), rectangles((1, 4, 5), (2, 40, 50)))


def test_youtube_without_truth_is_only_handed_in(youtube, tmp_path):
    request = {"root": youtube, "baseline": "first-mask", "sequences": ("v2",), "processes": 1}
    for more in ({"csv": tmp_path / "f.csv", "out": tmp_path / "o"}, {}):
        with pytest.raises(DatasetError, match="no truth"):
            evaluate(EvaluationRequest(**request, **more), Progress())
    assert evaluate(EvaluationRequest(**request, out=tmp_path / "out"), Progress()).scores == ()
    assert (tmp_path / "out/submission.zip").is_file()


def test_youtube_list_that_does_not_fit_is_refused(youtube):
    dataset = open_dataset(youtube)
    (youtube / "JPEGImages/v1/00015.jpg").unlink()
    (youtube / "Annotations/v1/00015.png").unlink()
    with pytest.raises(DatasetError, match=r"v1: 1 of 5 frames .*: 00015"):
        dataset.sequence("v1")
    save_palette(youtube / "Annotations/v2/00005.png", rectangles((4, 10, 10)))
    with pytest.raises(DatasetError, match=r"v2: .* lists objects 3"):
        dataset.sequence("v2")


def test_undecided_pixels_are_background_in_youtube_vos_too(youtube):
    """As scored with and without a rim of 255 about an object: the same object, the same figures."""
    plain = evaluate(EvaluationRequest(root=youtube, baseline="first-mask", processes=1), Progress())
    for file in (youtube / "Annotations").rglob("*.png"):
        labels = np.array(Image.open(file))
        labels[0, :] = 255
        save_palette(file, labels)
    found = evaluate(EvaluationRequest(root=youtube, baseline="first-mask", processes=1), Progress())
    assert [(s.sequence, s.object_id) for s in found.scores] == [("v1", 1), ("v1", 2)]
    assert found.mean == plain.mean


def test_one_odd_sequence_ends_nothing_for_the_others(youtube, tmp_path):
    save_palette(youtube / "Annotations/v2/00005.png", rectangles((4, 10, 10)))
    progress = Progress()
    request = EvaluationRequest(root=youtube, baseline="first-mask", out=tmp_path / "out", processes=1)
    evaluation = evaluate(request, progress)
    assert evaluation.left_out == ("v2",) and {s.sequence for s in evaluation.scores} == {"v1"}
    assert any("left out: v2" in note for note in progress.notes)
    with pytest.raises(DatasetError, match="v2"):
        evaluate(EvaluationRequest(root=youtube, baseline="first-mask", sequences=("v2",), processes=1), progress)


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: (root / "JPEGImages/480p/pair/00006.jpg").write_bytes(b"\xff\xd8\xff\xe0"),
        lambda root: cut(root / "JPEGImages/480p/pair/00006.jpg", 0.5),
        lambda root: cut(root / "Annotations/480p/pair/00000.png", 0.7),
        lambda root: cut(root / "Annotations/480p/pair/00004.png", 0.7),
        lambda root: (root / "JPEGImages/480p/pair/00006.jpg").rename(root / "JPEGImages/480p/pair/9999999999999.jpg"),
    ],
)
def test_whatever_is_wrong_with_a_sequence_ends_nothing_for_the_others(davis, tmp_path, damage):
    damage(davis)
    progress = Progress()
    found = evaluate(EvaluationRequest(root=davis, baseline="first-mask", out=tmp_path / "o", processes=1), progress)
    assert found.left_out == ("pair",) and [s.sequence for s in found.scores] == ["solo"]
    assert sum(note.startswith("left out: ") for note in progress.notes) == 1
    assert not (tmp_path / "o/pair").exists()


def cut(file, share):
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])


@pytest.mark.parametrize(
    "save", [save_grey, lambda path, labels: save_palette(path, np.where(labels > 0, 255, 0).astype(np.uint8))]
)
def test_a_video_of_black_and_white_annotations_has_one_object(youtube, save):
    for file in (youtube / "Annotations/v1").iterdir():
        save(file, np.array(Image.open(file)))
    listed = {"v1": {"objects": {"1": {"frames": ["00000", "00005"]}}}}
    write(youtube / "meta.json", json.dumps({"videos": listed}))
    progress = Progress()
    found = evaluate(EvaluationRequest(root=youtube, baseline="first-mask", processes=1), progress)
    assert [(s.sequence, s.object_id, s.frames) for s in found.scores] == [("v1", 1, ("00005",))]
    assert progress.notes == [
        "4 annotations are not used, as meta.json does not list their frames: v1/00010, v1/00015, v1/00020, v1/00025"
    ]


def test_white_alone_is_void_where_other_frames_have_numbers(youtube):
    """Grey annotations; in one frame the object is gone, and its rim is there."""
    for file in (youtube / "Annotations/v1").iterdir():
        labels = np.where(np.array(Image.open(file)) == 1, np.uint8(1), np.uint8(0))
        labels[0, :] = 255
        Image.fromarray(labels).save(file)
    Image.fromarray(np.where(labels == 255, labels, 0)).save(youtube / "Annotations/v1/00010.png")
    (youtube / "meta.json").unlink()
    sequence = open_dataset(youtube).sequence("v1")
    assert dict(sequence.starts) == {"00000": (1,)} and not sequence.single_object
    assert not sequence.truth("00010").any() and sequence.truth("00015").any()


def test_names_that_are_no_text_can_be_handed_in(youtube, tmp_path):
    odd = os.fsdecode(b"fr\xe9")
    for part, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        shutil.rmtree(youtube / part / "v1")
        for file in (youtube / part / "v2").iterdir():
            file.rename(file.with_name(f"{odd}{file.stem}.{suffix}"))
        (youtube / part / "v2").rename(youtube / part / odd)
    (youtube / "meta.json").unlink()
    request = EvaluationRequest(root=youtube, baseline="first-mask", out=tmp_path / "out", processes=1)
    with zipfile.ZipFile(evaluate(request, Progress()).submission) as archive:
        assert len(archive.namelist()) == 5 and "\\udce9" in archive.namelist()[0]


@pytest.mark.parametrize("resolution", ["480p", "Full-Resolution"])
def test_davis_with_withheld_truth_gives_masks_to_hand_in(tmp_path, resolution):
    root = tmp_path / "davis"
    for t in range(4):
        save_frame(root / f"JPEGImages/{resolution}/seq/{t:05d}.jpg", t)
    save_palette(root / f"Annotations/{resolution}/seq/00000.png", two_objects(0))
    write(root / "ImageSets/2017/test-dev.txt", "seq\n")
    request = {"root": root, "baseline": "first-mask", "split": "test-dev", "processes": 1}
    with pytest.raises(DatasetError, match="no truth"):
        evaluate(EvaluationRequest(**request), Progress())
    evaluation = evaluate(EvaluationRequest(**request, out=tmp_path / "out"), Progress())
    assert evaluation.scores == () and evaluation.unscored == ("seq",)
    assert sorted(f.name for f in (tmp_path / "out/seq").glob("*.png")) == [f"{t:05d}.png" for t in range(4)]


def overlap(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def test_flow_carries_a_mask_that_the_first_mask_loses():
    """The camera pans by 3 columns per frame over a still scene."""
    noise = np.random.default_rng(5).integers(0, 256, (120, 300, 3), dtype=np.uint8)
    scene, place = cv2.GaussianBlur(noise, (0, 0), 2), np.zeros((120, 300), np.uint8)
    place[30:90, 120:180] = 7
    followers = (FlowWarp(), FirstMask())
    for t in range(16):
        frame, truth = (np.ascontiguousarray(a[:, 3 * t : 3 * t + 200]) for a in (scene, place))
        flow, first = (follower.step(frame, truth if t == 0 else None) for follower in followers)
    assert overlap(flow == 7, truth == 7) > 0.95
    assert overlap(first == 7, truth == 7) == pytest.approx(15 / 105)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "flow", "results": Path("r")}, "--results and --baseline"),
        ({"baseline": "median"}, "expected one of first-mask, flow"),
        ({"baseline": "flow", "resume": True}, "give it"),
        ({"baseline": "flow", "processes": 0}, "processes is 0"),
        ({"baseline": "flow", "layout": "coco"}, "layout is 'coco'"),
    ],
)
def test_settings_that_contradict_are_refused(davis, settings, message):
    with pytest.raises(SettingsError, match=message):
        evaluate(EvaluationRequest(root=davis, **settings), Progress())


def test_command_prints_the_table_and_one_line_for_an_error(davis, results, monkeypatch, capsys):
    command = ["jointrt", "eval", str(davis), "--results", str(results), "--processes", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    printed = capsys.readouterr().out
    assert re.search(r"mean\s*│\s*│\s*0\.700", printed)
    monkeypatch.setattr(sys, "argv", [*command, "--sequences", "lost"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no sequence 'lost'" in error
    assert issubclass(DatasetError, JointError)
