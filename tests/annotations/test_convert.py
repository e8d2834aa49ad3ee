import contextlib
import io
import json

import cv2
import numpy as np
import pytest
import supervision
from jointrt import cli
from jointrt.runtime.video.masks import read_label_map, write_label_map
from PIL import Image
from pycocotools.coco import COCO


@pytest.fixture
def masks(tmp_path):
    """Three frames: an object of two parts with a hole in one, another that leaves."""
    folder = tmp_path / "run/masks"
    folder.mkdir(parents=True)
    for t in range(3):
        labels = np.zeros((48, 64), np.uint8)
        labels[4 + t : 24, 6:30] = labels[30:40, 40:60] = 3
        labels[12:16, 12:20] = 0
        if t < 2:
            labels[42:47, 2 : 12 + t] = 1
        write_label_map(folder / f"{t:05d}.png", labels)
    return folder


@pytest.fixture
def images(masks, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for file in masks.iterdir():
        Image.new("RGB", (64, 48)).save(folder / file.name)
    return folder


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["jointrt", "convert", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def same(folder, masks):
    files = sorted(file.name for file in masks.iterdir())
    assert sorted(file.name for file in folder.iterdir()) == files
    for name in files:
        assert np.array_equal(read_label_map(folder / name), read_label_map(masks / name))


@pytest.mark.parametrize(("form", "name"), [("coco", "a.json"), ("rle", "b.json"), ("ffv1", "c.mkv"), ("png", "d")])
def test_there_and_back_is_exact(masks, tmp_path, monkeypatch, form, name):
    """From the folder of a run, and from the file back to PNGs."""
    assert run(monkeypatch, masks.parent, "-o", tmp_path / name, "--to", form) == 0
    assert run(monkeypatch, tmp_path / name, "-o", tmp_path / "back", "--to", "png") == 0
    same(tmp_path / "back", masks)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_coco_as_pycocotools_reads_it(masks, tmp_path, monkeypatch):
    out = tmp_path / "a.json"
    assert run(monkeypatch, masks, "-o", out, "--to", "coco", "--names", "1=cat,3=dog") == 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(out))
    assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == {1: "cat", 3: "dog"}
    assert coco.getAnnIds(iscrowd=True) == []
    for image in coco.loadImgs(coco.getImgIds()):
        labels = read_label_map(masks / image["file_name"])
        for part in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            region = labels == part["category_id"]
            assert np.array_equal(coco.annToMask(part) > 0, region) and part["area"] == region.sum()
            rows, columns = np.nonzero(region)
            x, y, width, height = part["bbox"]
            assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@pytest.mark.parametrize("form", ["yolo", "labelme"])
def test_outlines_of_other_tools(masks, images, tmp_path, monkeypatch, capsys, form):
    """As supervision writes and reads them: an object of two parts stays one object."""
    assert run(monkeypatch, masks, "-o", tmp_path / form, "--to", form, "--names", "1=cat,3=dog") == 0
    assert run(monkeypatch, tmp_path / form, "-o", tmp_path / "x", "--to", "png") == 2
    assert "give --frames" in capsys.readouterr().err
    assert run(monkeypatch, tmp_path / form, "-o", tmp_path / "back", "--to", "png", "--frames", images) == 0
    # Ids are the classes' places.
    for t in range(3):
        labels, back = (read_label_map(folder / f"{t:05d}.png") for folder in (masks, tmp_path / "back"))
        for was, now in ((1, 1), (3, 2)) if t < 2 else ((3, 2),):
            a, b = labels == was, back == now
            assert (a & b).sum() / (a | b).sum() > 0.8
            assert not (b & (cv2.dilate(a.astype(np.uint8), np.ones((11, 11))) == 0)).any()


def test_pascal_voc_as_supervision_reads_it(masks, images, tmp_path, monkeypatch):
    assert run(monkeypatch, masks, "-o", tmp_path / "voc", "--to", "voc") == 0
    data = supervision.DetectionDataset.from_pascal_voc(str(images), str(tmp_path / "voc"), force_masks=True)
    assert len(data) == 3 and set(data.classes) == {"object 1", "object 3"}


def test_instances_that_nothing_tells_apart(masks, tmp_path, monkeypatch, capsys):
    out = tmp_path / "a.json"
    assert run(monkeypatch, masks, "-o", out, "--to", "coco") == 0
    content = json.loads(out.read_text())
    for part in content["annotations"]:
        part["category_id"] = 1
        del part["track_id"]
    out.write_text(json.dumps(content))
    assert run(monkeypatch, out, "-o", tmp_path / "x", "--to", "png") == 2
    assert "2 annotations of object 1 in 00000.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "neither COCO's"),
        ("[1, 2", "cannot be read as JSON"),
        ('{"annotations": [{}], "images": []}', "no whole COCO file"),
        ('{"size": [4], "frames": {"a": {}}}', "no file of run lengths"),
        ('{"size": [4, 4], "frames": {"a": {"1": "R25"}}}', "damaged"),
        ('{"size": [4, 4], "frames": {}}', "no frame"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, monkeypatch, capsys, content, words):
    (tmp_path / "a.json").write_text(content)
    assert run(monkeypatch, tmp_path / "a.json", "-o", tmp_path / "x", "--to", "png") == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json"]


def test_what_cannot_be_asked_for(masks, tmp_path, monkeypatch, capsys):
    for arguments, words in (
        ((masks, "-o", tmp_path / "x", "--to", "gif"), "expected one of png, ffv1"),
        ((masks, "-o", masks, "--to", "png"), "is there already"),
        ((masks, "-o", tmp_path / "x", "--to", "coco", "--names", "0=dog"), "an id from 1 to 255"),
        ((masks, "-o", tmp_path / "x", "--to", "coco", "--names", "dog,dog"), "twice"),
        ((tmp_path / "none", "-o", tmp_path / "x", "--to", "coco"), "does not exist"),
        ((tmp_path, "-o", tmp_path / "x", "--to", "coco"), "holds no masks"),
    ):
        assert run(monkeypatch, *arguments) == 2
        assert words in capsys.readouterr().err
