"""What a person sees: which frame while tracking, marks, masks, the timeline; and what a second page may do."""

import numpy as np
import pytest

from .browser import COUNT, at, click_at, drag, edited, mask_of, served, wait_for

pytest.importorskip("fastapi")


def colour_at(page, canvas: str, x: float, y: float) -> list[int]:
    """What a canvas shows at a pixel of the film, RGBA."""
    return page.evaluate(
        "([id, x, y]) => { const c = document.getElementById(id), p = studio.toPage(x, y);"
        " return [...c.getContext('2d').getImageData(p[0], p[1], 1, 1).data] }",
        [canvas, x, y],
    )


def test_the_first_click_makes_its_object(page, studio):
    link, folder = studio
    (folder / "new.mp4").write_bytes((folder / "short.mp4").read_bytes())
    page.goto(link)
    wait_for(page, "ready")
    page.select_option("#files", "new.mp4")
    page.wait_for_function("() => document.title === 'new.mp4 · jointrt studio'")
    page.wait_for_selector("#hint:visible")
    edited(page, lambda: click_at(page, 190, 150))
    assert [item["name"] for item in page.evaluate("studio.project().objects")] == ["object 1"]
    assert mask_of(page, 0)[150, 190] == 1
    assert page.locator("#hint").is_hidden()


def test_masks_are_drawn_in_their_colours_and_hidden(open_page):
    page = open_page
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    page.locator("#objects li input[type=color]").fill("#102030")
    page.wait_for_function("() => studio.project().objects[0].colour === '#102030'")
    assert colour_at(page, "masks", 110, 60) == [0x10, 0x20, 0x30, 255]
    assert colour_at(page, "masks", 110, 120) == [0, 0, 0, 0]
    # The stroke has gone from the page's own layer: what is seen there is the mask.
    page.mouse.move(0, 0)
    assert colour_at(page, "over", 110, 60) == [0, 0, 0, 0]
    page.keyboard.press("m")
    assert page.evaluate("getComputedStyle(document.getElementById('masks')).visibility") == "hidden"
    page.keyboard.press("m")
    page.locator("#strength").fill("90")
    assert page.evaluate("getComputedStyle(document.getElementById('masks')).opacity") == "0.9"


def test_escape_lets_go_of_clicks(open_page):
    page = open_page
    edited(page, lambda: click_at(page, 190, 150))
    assert len(page.evaluate("studio.clicks()")) == 1
    page.keyboard.press("Escape")
    assert page.evaluate("studio.clicks()") == []


def test_one_looks_elsewhere_while_tracking_and_follows_again(open_page):
    page = open_page
    edited(page, lambda: click_at(page, 190, 150))
    page.keyboard.press("t")
    page.wait_for_function("() => studio.view().tracked >= 1", timeout=60_000)
    page.keyboard.press("Home")
    page.wait_for_selector("#follow:visible")
    page.wait_for_function("() => studio.view().tracked >= 3", timeout=60_000)
    assert page.evaluate("studio.view().frame") == 0
    page.click("#follow")
    page.wait_for_selector(f"body[data-frame='{COUNT - 1}']", timeout=60_000)
    page.wait_for_function("() => !studio.view().busy", timeout=60_000)
    assert page.locator("#follow").is_hidden()


def test_panning_goes_on_over_frames(open_page):
    page = open_page
    page.keyboard.press("p")
    page.mouse.move(*at(page, 100, 100))
    before = at(page, 100, 100)
    page.mouse.down()
    page.evaluate("studio.go(1)")
    page.wait_for_selector("body[data-frame='1']")
    page.mouse.move(before[0] + 40, before[1] + 20)
    page.mouse.up()
    assert at(page, 100, 100) == pytest.approx((before[0] + 40, before[1] + 20), abs=1)


def test_an_object_that_was_removed_comes_back_by_undo(open_page):
    page = open_page
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    before = mask_of(page, 0)
    page.locator("#objects li button").first.click()
    page.wait_for_function("() => studio.project().objects.length === 0")
    page.wait_for_function("() => document.getElementById('text').textContent === 'ready'")
    assert not mask_of(page, 0).any()
    page.wait_for_function(
        "() => !document.getElementById('masks').getContext('2d').getImageData(0, 0, 1024, 640).data.some(Boolean)"
    )
    page.click("#undo")
    page.wait_for_function("() => studio.project().objects.length === 1")
    np.testing.assert_array_equal(mask_of(page, 0), before)
    place = page.evaluate("studio.toPage(110, 60)")
    page.wait_for_function(
        "p => document.getElementById('masks').getContext('2d').getImageData(p[0], p[1], 1, 1).data[3] === 255",
        arg=place,
    )


def test_a_page_of_a_server_that_was_started_again_says_so(page, tmp_path):
    with served(tmp_path) as (link, _):
        page.goto(link)
        wait_for(page, "ready")
    with served(tmp_path, "--port", link.split(":")[2].split("/")[0]):
        wait_for(page, "started again: open the link")


def test_the_timeline_says_what_is_known_and_leaves_the_picture_its_room(open_page):
    page = open_page
    page.keyboard.press("b")
    edited(page, lambda: drag(page, (60, 60), (160, 60)))
    line = page.locator("#timeline").bounding_box()
    page.mouse.move(line["x"] + line["width"] * 0.5 / COUNT, line["y"] + 12)
    pixels = int((mask_of(page, 0) == 1).sum())
    assert page.get_attribute("#timeline", "title") == f"object 1, frame 1: {pixels} pixels, given"
    page.mouse.move(line["x"] + line["width"] * 2.5 / COUNT, line["y"] + 12)
    assert page.get_attribute("#timeline", "title") == "object 1, frame 3: not seen"
    before = page.locator("#stage").bounding_box()
    for count in range(2, 10):
        page.keyboard.press("n")
        page.wait_for_function("n => studio.project().objects.length === n", arg=count)
    assert page.locator("#stage").bounding_box()["height"] >= before["height"] - 40
    lanes = page.locator("#lanes")
    assert lanes.evaluate("e => e.scrollTop + e.clientHeight === e.scrollHeight")
    page.keyboard.press("1")
    assert lanes.evaluate("e => e.scrollTop") == 0
    page.keyboard.press("2")
    assert page.evaluate("studio.view().chosen") == 2


def test_a_film_is_dropped_on_the_page(open_page, studio):
    page, (_, folder) = open_page, studio
    content = list((folder / "short.mp4").read_bytes())
    page.evaluate(
        "bytes => { const data = new DataTransfer(); data.items.add(new File([new Uint8Array(bytes)], 'dropped.mp4'));"
        " dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true })) }",
        content,
    )
    page.wait_for_function("() => document.title.startsWith('dropped.mp4')")
    assert (folder / "dropped.mp4").read_bytes() == bytes(content)


def test_a_page_that_watches_scrubs_without_being_refused(open_page, chromium, studio):
    other = chromium.new_page()
    other.goto(studio[0])
    other.wait_for_selector("#take:visible")
    assert other.locator("#track").is_disabled() and other.locator("#add").is_disabled()
    other.keyboard.press("End")
    other.wait_for_selector(f"body[data-frame='{COUNT - 1}']")
    # What the server answers to this comes after what it would have answered before.
    other.evaluate("studio.send('at')")
    wait_for(other, "another page works on this film")
    other.evaluate("document.getElementById('text').textContent = ''")
    other.keyboard.press("Home")
    other.wait_for_selector("body[data-frame='0']")
    edited(open_page, lambda: click_at(open_page, 190, 150))
    other.wait_for_function("() => studio.project().undo === 1")
    assert "another page" not in other.text_content("#text")
    other.close()
