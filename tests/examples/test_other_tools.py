"""The examples for other tools, with their own packages: what they send and take, against what we would compute."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jointrt import Segmenter
from jointrt.runtime.clicks.prompts import Click
from jointrt.runtime.clicks.segmenter import ClickSegmenter
from jointrt.runtime.video.masks import read_label_map, write_label_map
from jointrt.runtime.video.sources import open_source
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
FILM = EXAMPLES / "dog.mp4"
FRAMES = 3


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def frames():
    return [frame.image for frame in open_source(FILM).frames(0, FRAMES)]


@pytest.fixture(scope="module")
def first():
    return read_label_map(FILM.with_suffix(".png"))


def as_drawn(shapes):
    """Shapes as the server answers them: what was sent, as JSON, with numbers of its own."""
    from cvat_sdk import models

    sent = json.loads(json.dumps([shape.to_dict() for shape in shapes], default=str))
    return [models.LabeledShape(**{**shape, "id": n, "type": str(shape["type"])}) for n, shape in enumerate(sent)]


def test_a_cvat_task_is_followed(frames, first):
    """Drawn masks go out, and every further frame's come back under the objects' labels and groups."""
    pytest.importorskip("cvat_sdk")
    from cvat_sdk import models
    from cvat_sdk.masks import decode_mask

    cvat = example("cvat_task")
    size = first.shape
    sizes = dict.fromkeys(range(FRAMES), size)
    drawn = as_drawn(cvat.shapes_of(first, 0, {1: (10, 0), 2: (20, 4)}))
    box = models.LabeledShape(type="rectangle", frame=1, label_id=10, points=[0.0, 0.0, 9.0, 9.0], id=9)
    maps, objects = cvat.given_masks([*drawn, box], sizes)
    assert objects == {1: (10, 0), 2: (20, 4)} and list(maps) == [0]
    np.testing.assert_array_equal(maps[0], first)
    shapes = list(cvat.follow(enumerate(frames), maps, objects, Segmenter.load("lite-int8", threads=1)))
    request = models.PatchedLabeledDataRequest(shapes=shapes)
    assert len(request.to_dict()["shapes"]) == 2 * (FRAMES - 1)
    expected = Segmenter.load("lite-int8", threads=1)
    for t, frame in enumerate(frames):
        labels = expected.step(frame, first if t == 0 else None)
        for shape in (s for s in as_drawn(shapes) if s.frame == t):
            mask = decode_mask(shape.points, image_width=size[1], image_height=size[0])
            np.testing.assert_array_equal(mask, labels == {10: 1, 20: 2}[shape.label_id])
    polygon = models.LabeledShape(type="polygon", frame=0, label_id=7, points=[2.0, 3, 8, 3, 8, 9, 2, 9], id=1)
    maps, objects = cvat.given_masks([polygon], {0: (20, 30)})
    assert np.argwhere(maps[0]).min(0).tolist() == [3, 2] and maps[0].sum() == 49 and objects == {1: (7, 0)}


def test_a_cvat_agent_tracks(frames, first):
    """Two objects in turn, each from its own snapshot, are what each would be alone."""
    cvataa = pytest.importorskip("cvat_sdk.auto_annotation")
    from cvat_sdk.masks import decode_mask, encode_mask

    tracker = example("cvat_tracker").create()
    height, width = first.shape
    context = SimpleNamespace(original_shape_type="mask")
    pictures = [tracker.preprocess_image(context, Image.fromarray(frame)) for frame in frames]
    drawn = [cvataa.TrackableShape(type="mask", points=encode_mask(first == i)) for i in (1, 2)]
    states = [tracker.init_tracking_state(context, pictures[0], shape) for shape in drawn]
    alone = [Segmenter.load("lite-int8") for _ in drawn]
    for object_id, segmenter in enumerate(alone, 1):
        segmenter.step(frames[0], (first == object_id).astype(np.uint8))
    for picture in pictures[1:]:
        for state, segmenter in zip(states, alone, strict=True):
            shape = tracker.track(context, picture, state)
            mask = decode_mask(shape.points, image_width=width, image_height=height)
            np.testing.assert_array_equal(mask, segmenter.step(picture) > 0)
    polygon = tracker.track(SimpleNamespace(original_shape_type="polygon"), pictures[-1], states[1])
    assert polygon.type == "polygon" and len(polygon.points) > 20
    assert tracker.spec.supported_shape_types == {"mask", "polygon"}


def test_a_cvat_agent_makes_masks_from_clicks(frames):
    pytest.importorskip("cvat_sdk")
    from cvat_sdk.masks import decode_mask

    agent = example("cvat_clicks").create()
    picture = agent.preprocess_image(None, Image.fromarray(frames[0]))
    height, width = picture.shape[:2]
    prompts = SimpleNamespace(pos_points=[(430.0, 300.0)], neg_points=[], bounding_box=((380.0, 240.0), (520.0, 420.0)))
    (shape,) = agent.detect(None, picture, prompts)
    alone = ClickSegmenter.load()
    alone.set_image(picture)
    expected = alone.predict([Click(430, 300)], (380, 240, 520, 420)) > 0.5
    np.testing.assert_array_equal(decode_mask(shape.points, image_width=width, image_height=height), expected)


def test_napari_shows_and_gives_back_what_was_painted(tmp_path, first):
    napari_masks = example("napari_masks")
    write_label_map(tmp_path / "00000.png", first)
    (frames, _, _), (labels, _, kind) = napari_masks.layers(FILM, tmp_path)
    assert kind == "labels" and labels.shape == frames.shape[:3] and not labels[1:].any()
    np.testing.assert_array_equal(labels[0], first)
    painted = labels.copy()
    painted[7, 100:120, 200:220] = 2
    assert napari_masks.save(labels, painted, tmp_path / "corrected") == [7]
    np.testing.assert_array_equal(read_label_map(tmp_path / "corrected/00007.png"), painted[7])


def test_napari_is_painted_in(tmp_path, first):
    """Its viewer without a window: layers, a stroke of its brush in one frame, and what is saved of it."""
    napari = pytest.importorskip("napari.components")
    napari_masks = example("napari_masks")
    write_label_map(tmp_path / "00000.png", first)
    viewer = napari.ViewerModel()
    shown, before = napari_masks.show(viewer, FILM, tmp_path)
    assert [layer.name for layer in viewer.layers] == ["dog", "masks"] and viewer.dims.current_step[0] == 0
    shown.brush_size = 10
    shown.paint((3, 100, 200), 2)
    assert napari_masks.save(before, shown.data, tmp_path / "corrected") == [3]
    painted = read_label_map(tmp_path / "corrected/00003.png")
    assert painted[100, 200] == 2 and 60 <= (painted == 2).sum() <= 120
    np.testing.assert_array_equal(before[0], first)


def test_fiftyone_has_every_object_in_its_place(tmp_path, first):
    pytest.importorskip("fiftyone")
    write_label_map(tmp_path / "00004.png", first)
    found = example("fiftyone_masks").sample(FILM, tmp_path)
    assert list(found.frames) == [5]
    height, width = first.shape
    for detection in found.frames[5].objects.detections:
        x, y, w, h = np.rint(np.array(detection.bounding_box) * (width, height, width, height)).astype(int)
        np.testing.assert_array_equal(detection.mask, (first == detection.index)[y : y + h, x : x + w])
        assert detection.mask.sum() == (first == detection.index).sum()
