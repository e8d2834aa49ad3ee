"""Every tool, list and key of the page, in a real Chromium, over one short clip."""

import json
import zipfile
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from jointrt.runtime.video.sources import open_source
from PIL import Image
from pycocotools import mask as rle

from .browser import COUNT, at, at_rest, click_at, drag, edited, mask_of, saved, saved_masks, short_clip, wait_for

pytest.importorskip("fastapi")


def area(page, frame: int = 0, object_id: int = 1) -> int:
    return int((mask_of(page, frame) == object_id).sum())


def test_clicks_add_and_take_away(open_page):
    page = open_page
    edited(page, lambda: click_at(page, 190, 150))
    whole = mask_of(page, 0) == 1
    assert whole[150, 190]
    edited(page, lambda: click_at(page, 205, 165, button="right"))
    assert not (mask_of(page, 0) == 1)[165, 205] or area(page) < whole.sum()
    edited(page, lambda: click_at(page, 180, 140, modifiers=["Alt"]))
    assert [on for _, _, on in page.evaluate("studio.clicks()")] == [True, False, False]


def test_a_box_finds_what_is_in_it(open_page):
    page = open_page
    page.keyboard.press("x")
    edited(page, lambda: drag(page, (165, 110), (235, 185)))
    rows, columns = np.nonzero(mask_of(page, 0) == 1)
    assert 110 <= rows.mean() <= 185 and 165 <= columns.mean() <= 235


def test_brush_eraser_and_their_size(open_page):
    page = open_page
    page.keyboard.press("b")
    page.evaluate("document.getElementById('size').value = 20")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    painted = area(page)
    assert painted == pytest.approx(100 * 20 + np.pi * 100, rel=0.08)
    page.keyboard.press("]")
    page.keyboard.press("]")
    assert int(page.input_value("#size")) > 28
    page.keyboard.press("e")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    assert area(page) == 0


def test_the_lasso_follows_edges(open_page, studio):
    """Drawn a little outside of a bright square on black, it closes on the square."""
    page, (_, folder) = open_page, studio
    square = np.zeros((240, 426, 3), np.uint8)
    square[60:180, 120:260] = 230
    (folder / "square").mkdir(exist_ok=True)
    Image.fromarray(square).save(folder / "square" / "0.png")
    page.reload()
    wait_for(page, "ready")
    page.select_option("#files", "square")
    page.wait_for_function("() => studio.project()?.objects.length === 0")
    page.click("#add")
    page.wait_for_selector("#objects li.chosen")
    page.keyboard.press("l")
    ring = [(120, 60), (190, 55), (260, 60), (265, 120), (260, 180), (190, 185), (120, 180), (115, 120), (121, 66)]
    edited(page, lambda: drag(page, *ring))
    truth, found = square[..., 0] > 0, mask_of(page, 0) == 1
    assert (truth & found).sum() / (truth | found).sum() > 0.95
    page.select_option("#files", "short.mp4")
    page.wait_for_function(f"() => document.getElementById('place').textContent.includes('of {COUNT}')")


def test_undo_and_redo_over_frames(open_page):
    page = open_page
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (120, 60)))
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-frame='1']")
    edited(page, lambda: drag(page, (60, 90), (120, 90)))
    first, second = area(page, 0), area(page, 1)
    assert first and second
    page.keyboard.press("Control+z")
    page.wait_for_function("() => studio.project().redo === 1")
    assert (area(page, 0), area(page, 1)) == (first, 0)
    page.click("#undo")
    page.wait_for_selector("body[data-frame='0']")
    assert area(page, 0) == 0
    page.keyboard.press("Control+Shift+Z")
    page.keyboard.press("Control+Shift+Z")
    page.wait_for_function("() => studio.project().redo === 0")
    assert (area(page, 0), area(page, 1)) == (first, second)


def test_objects_are_named_coloured_and_removed(open_page):
    page = open_page
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (120, 60)))
    page.click("#add")
    page.wait_for_function("() => studio.project().objects.length === 2")
    assert page.evaluate("studio.view().chosen") == 2
    edited(page, lambda: drag(page, (60, 120), (120, 120)))
    page.locator("#objects li input[type=text]").nth(1).fill("ball")
    page.keyboard.press("Enter")
    page.wait_for_function("() => studio.project().objects[1].name === 'ball'")
    page.locator("#objects li input[type=color]").nth(1).fill("#102030")
    page.wait_for_function("() => studio.project().objects[1].colour === '#102030'")
    page.locator("#objects li button").nth(0).click()
    page.wait_for_function("() => studio.project().objects.length === 1")
    assert area(page, 0, 1) == 0 and area(page, 0, 2) > 0


def test_tracked_backwards_stopped_and_corrected(open_page, tmp_path):
    page = open_page
    page.keyboard.press("End")
    page.wait_for_selector(f"body[data-frame='{COUNT - 1}']")
    edited(page, lambda: click_at(page, 190, 150))
    page.keyboard.press("r")
    page.wait_for_selector("body[data-frame='0']", timeout=30_000)
    at_rest(page, 0)
    project = page.evaluate("studio.project()")
    assert all(project["seen"][str(k)]["1"]["area"] for k in range(COUNT))
    assert all(0.5 < project["seen"][str(k)]["1"]["sure"] <= 1 for k in range(COUNT))
    assert list(project["given"]) == [str(COUNT - 1)]
    running = page.text_content("#running")
    assert "lite-int8" in running and "frames/s" in running and "CPU" in running.upper()
    page.screenshot(path=tmp_path / "tracked.png")
    page.keyboard.press("t")
    page.keyboard.press("Escape")
    page.wait_for_function("() => !studio.view().busy")
    assert page.text_content("#text") == "ready"
    at = page.evaluate("studio.view().frame")
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (120, 60)))
    assert page.evaluate("at => studio.given(at)", at)


def test_choices_are_kept_and_bad_ones_refused(open_page):
    page = open_page
    page.fill("#memory", "7")
    page.keyboard.press("Enter")
    page.fill("#interval", "3")
    page.keyboard.press("Enter")
    page.select_option("#bundle", "lite")
    page.select_option("#windows", "released")
    page.select_option("#share", "frame")
    chosen = {"bundle": "lite", "memory": 7, "interval": 3, "windows": "released", "share": "frame"}
    page.wait_for_function("chosen => JSON.stringify(studio.project().choices) === JSON.stringify(chosen)", arg=chosen)
    page.fill("#memory", "-1")
    page.keyboard.press("Enter")
    wait_for(page, "memory is -1")
    assert page.input_value("#memory") == "7"
    page.fill("#memory", "")
    page.keyboard.press("Enter")
    page.wait_for_function("() => studio.project().choices.memory === null")


def test_keys_wheel_and_timeline(open_page):
    page = open_page
    for key, frame in (
        ("End", COUNT - 1),
        ("ArrowLeft", COUNT - 2),
        ("Shift+ArrowLeft", 0),
        ("ArrowRight", 1),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        page.wait_for_selector(f"body[data-frame='{frame}']")
    page.keyboard.press(" ")
    page.wait_for_selector(f"body[data-frame='{COUNT - 1}']")
    line = page.locator("#timeline").bounding_box()
    page.mouse.click(line["x"] + line["width"] * 2.5 / COUNT, line["y"] + 10)
    page.wait_for_selector("body[data-frame='2']")
    before = at(page, 100, 100)
    page.mouse.move(*before)
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => studio.view().zoom > 2")
    assert at(page, 100, 100) == pytest.approx(before, abs=1)
    page.keyboard.press("p")
    page.mouse.down()
    page.mouse.move(before[0] + 50, before[1] + 30)
    page.mouse.up()
    assert at(page, 100, 100) == pytest.approx((before[0] + 50, before[1] + 30), abs=1)
    page.keyboard.press("0")
    assert page.evaluate("studio.view().zoom") == 1


def test_everything_that_is_saved(open_page, studio):
    page, film = open_page, open_source(studio[1] / "short.mp4")
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    page.keyboard.press("End")
    page.wait_for_selector(f"body[data-frame='{COUNT - 1}']")
    edited(page, lambda: drag(page, (200, 160), (300, 160)))
    masks = {int(name[:-4]): labels for name, labels in saved_masks(page).items()}
    assert {index for index, labels in masks.items() if labels.any()} == {0, COUNT - 1}
    labels = {index: masks[index] for index in (0, COUNT - 1)}
    _check_videos(page, film, labels)
    with zipfile.ZipFile(BytesIO(saved(page, "cutout.zip"))) as archive:
        names = archive.namelist()
        cut = np.array(Image.open(archive.open(names[0])))
    assert len(names) == COUNT
    np.testing.assert_array_equal(cut[..., 3] > 0, labels[0] > 0)
    coco = json.loads(saved(page, "coco.json"))
    frame_of = {image["id"]: int(Path(image["file_name"]).stem) for image in coco["images"]}
    assert {frame_of[item["image_id"]] for item in coco["annotations"]} == set(labels)
    for item in coco["annotations"]:
        np.testing.assert_array_equal(rle.decode(item["segmentation"]), labels[frame_of[item["image_id"]]] == 1)
    with zipfile.ZipFile(BytesIO(saved(page, "yolo.zip"))) as archive:
        line = archive.read(sorted(name for name in archive.namelist() if name.endswith("txt"))[0]).decode().split()
    shares = np.array(line[1:], float).reshape(-1, 2)
    assert line[0] == "0" and shares.mean(0) * labels[0].shape[::-1] == pytest.approx((110, 60), abs=3)


def _check_videos(page, film, labels) -> None:
    first = next(iter(film.frames(0, 1))).image
    for what, codec in (("overlay.mp4", "h264"), ("cutout.mov", "prores"), ("cutout.webm", "vp9")):
        with av.open(BytesIO(saved(page, what))) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name in (codec, "libvpx-vp9")
            decoder = av.CodecContext.create("libvpx-vp9", "r") if codec == "vp9" else stream.codec_context
            pictures = [picture for packet in container.demux(stream) for picture in decoder.decode(packet)]
        assert len(pictures) == COUNT
        if codec == "h264":
            changed = np.abs(pictures[0].to_ndarray(format="rgb24").astype(int) - first).sum(2) > 60
            inside = labels[0] > 0
            assert changed[inside].mean() > 0.9 > 0.1 > changed[~inside].mean()
        else:
            alpha = pictures[0].to_ndarray(format="rgba")[..., 3]
            assert np.mean((alpha > 127) == (labels[0] > 0)) > 0.995
            assert pictures[3].to_ndarray(format="rgba")[..., 3].max() < 30


def test_a_saved_project_opens_again(open_page, studio, tmp_path):
    page = open_page
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    page.locator("#objects li input[type=text]").fill("stick")
    page.keyboard.press("Enter")
    page.wait_for_function("() => studio.project().objects[0].name === 'stick'")
    before = mask_of(page, 0)
    file = tmp_path / "project.zip"
    file.write_bytes(saved(page, "project.zip"))
    page.locator("#objects li button").first.click()
    page.wait_for_function("() => studio.project().objects.length === 0")
    page.set_input_files("#upload", file)
    page.wait_for_function("() => studio.project().objects[0]?.name === 'stick'")
    np.testing.assert_array_equal(mask_of(page, 0), before)


def test_an_uploaded_film_opens(open_page, tmp_path):
    page = open_page
    page.set_input_files("#upload", short_clip(tmp_path / "other.mp4", 3, side=4))
    page.wait_for_function("() => document.getElementById('place').textContent.includes('of 3')")
    page.set_input_files("#upload", tmp_path / "other.mp4")
    wait_for(page, "is there already")
    page.select_option("#files", "short.mp4")
    page.wait_for_function(f"() => document.getElementById('place').textContent.includes('of {COUNT}')")
