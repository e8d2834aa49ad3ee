"""`jointrt mask`, `jointrt run` from a box, and `jointrt eval-clicks`, on the shipped clip."""

import csv
import sys

import numpy as np
import pytest
from jointrt import ClickSegmenter, cli
from jointrt.export.parity.graphs import CLIP, CLIP_MASK, read_clip
from jointrt.runtime.clicks.prompts import box_of
from jointrt.runtime.video.masks import read_label_map, write_label_map
from PIL import Image


def call(monkeypatch, *arguments):
    """The exit code of `jointrt ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["jointrt", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


@pytest.fixture(scope="module")
def labels():
    return read_label_map(CLIP_MASK)


@pytest.fixture(scope="module")
def boxes(labels):
    """Of the woman, 1, and the dog, 2, as typed."""
    return {i: ",".join(f"{edge:.0f}" for edge in box_of(labels == i)) for i in (1, 2)}


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_objects_are_masked_one_after_the_other(monkeypatch, capfd, tmp_path, labels, boxes):
    out = tmp_path / "mask.png"
    assert call(monkeypatch, "mask", CLIP, "--box", boxes[1], "-o", out) == 0
    assert "object 1, " in capfd.readouterr().out
    first = read_label_map(out)
    assert iou(first == 1, labels == 1) > 0.75
    assert call(monkeypatch, "mask", CLIP, "--box", boxes[2], "--id", 2, "-o", out) == 2
    assert "give --add to keep its objects, or --overwrite" in capfd.readouterr().err
    assert np.array_equal(read_label_map(out), first)
    assert call(monkeypatch, "mask", CLIP, "--box", boxes[2], "--id", 2, "--add", "-o", out) == 0
    both = read_label_map(out)
    assert iou(both == 2, labels == 2) > 0.75
    assert np.array_equal(both == 1, (first == 1) & (both != 2))


def test_an_image_is_masked_as_the_frame_that_it_shows(monkeypatch, tmp_path, boxes):
    image, frame = tmp_path / "picture.png", read_clip(1)[0][0]
    Image.fromarray(frame).save(image)
    for source, name in ((image, "a.png"), (CLIP, "b.png")):
        assert call(monkeypatch, "mask", source, "--box", boxes[2], "--not", "290,300", "-o", tmp_path / name) == 0
    found = read_label_map(tmp_path / "a.png")
    assert np.array_equal(found, read_label_map(tmp_path / "b.png"))
    # What Python makes of the same box and click.
    segmenter = ClickSegmenter.load()
    segmenter.set_image(frame)
    from jointrt import Click

    box = tuple(float(edge) for edge in boxes[2].split(","))
    mask = segmenter.predict([Click(290, 300, positive=False)], box, segmenter.predict(box=box))
    assert np.array_equal(found == 1, mask > 0.5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((CLIP,), "nothing shows the object: give --box"),
        ((CLIP, "--not", "3,4"), "nothing shows the object: give --box"),
        ((CLIP, "--click", "3;4"), "--click is '3;4': expected x,y in pixels"),
        ((CLIP, "--box", "1,2,3"), "expected x0,y0,x1,y1"),
        ((CLIP, "--click", "9000,4"), "lies outside of the picture, 854x480"),
        ((CLIP, "--click", "9,4", "--frame", 500), "has no such frame"),
        ((CLIP, "--click", "9,4", "--id", 0), "id is 0: expected 1 to 255"),
        ((CLIP_MASK, "--click", "9,4", "--frame", 3), "is a single image"),
        ((CLIP, "--click", "9,4", "--bundle", "lite"), "no bundle for clicks"),
    ],
)
def test_what_cannot_be_masked_is_one_line_and_leaves_nothing(monkeypatch, capfd, tmp_path, arguments, said):
    assert call(monkeypatch, "mask", *arguments, "-o", tmp_path / "mask.png") == 2
    complaint = capfd.readouterr().err
    assert said in complaint
    assert complaint.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_film_is_run_from_a_box(monkeypatch, tmp_path, boxes):
    out = tmp_path / "out"
    arguments = ("--end", 2, "--no-overlay", "--bundle", "lite")
    assert call(monkeypatch, "run", CLIP, "--box", boxes[1], "-o", out, *arguments) == 0
    assert call(monkeypatch, "mask", CLIP, "--box", boxes[1], "-o", tmp_path / "mask.png") == 0
    given = read_label_map(tmp_path / "mask.png")
    assert np.array_equal(read_label_map(out / "masks" / "00000.png"), given)
    assert iou(read_label_map(out / "masks" / "00001.png") == 1, given == 1) > 0.8


@pytest.mark.parametrize(("arguments", "said"), [((), "neither"), (("--mask", CLIP_MASK, "--click", "9,9"), "both")])
def test_a_run_takes_a_mask_or_clicks(monkeypatch, capfd, tmp_path, arguments, said):
    assert call(monkeypatch, "run", CLIP, *arguments, "-o", tmp_path / "out") == 2
    assert said in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


def test_clicks_are_counted(monkeypatch, capfd, tmp_path, labels):
    for kind in ("JPEGImages", "Annotations"):
        (tmp_path / "davis" / kind / "480p" / "dog").mkdir(parents=True)
    for t, frame in enumerate(read_clip(3)[0]):
        Image.fromarray(frame).save(tmp_path / "davis" / "JPEGImages" / "480p" / "dog" / f"{t:05d}.png")
        write_label_map(tmp_path / "davis" / "Annotations" / "480p" / "dog" / f"{t:05d}.png", labels)
    curves = tmp_path / "curves.csv"
    assert call(monkeypatch, "eval-clicks", tmp_path / "davis", "--every", 5, "--csv", curves) == 0
    said = capfd.readouterr().out
    assert all(f"NoC@{target}" in said for target in (80, 85, 90))
    rows = list(csv.DictReader(curves.open()))
    assert [(row["frame"], row["object"]) for row in rows] == [("00000", "1"), ("00000", "2")]
    segmenter = ClickSegmenter.load()
    segmenter.set_image(read_clip(1)[0][0])
    for i, row in enumerate(rows, 1):
        boxed = segmenter.predict(box=box_of(labels == i)) > 0.5
        assert float(row["box"]) == pytest.approx(iou(boxed, labels == i), abs=1e-3)
        assert float(row["after 20"]) >= float(row["after 1"]) - 0.02
        assert 0 < float(row["grabcut"]) < 1
        assert all(float(row[name]) for name in ("ms first", "ms features kept", "ms features"))
