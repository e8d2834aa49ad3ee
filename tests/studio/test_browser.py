"""A person's work on the shipped clip in a real Chromium, held against the Python interface."""

import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import cv2
import jointrt
import numpy as np
import pytest
from jointrt import Click, ClickSegmenter, Segmenter
from jointrt.runtime.video.sources import open_source
from PIL import Image

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
CLIP = Path(jointrt.__file__).parent / "examples" / "dog.mp4"
CLICKS = [(380, 300), (420, 330)]
STROKE = [(300, 100), (340, 110)]
WIDTH = 24
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")


@contextmanager
def served(folder: Path, *film: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    command = [sys.executable, "-m", "jointrt.cli", "studio", *film, "--folder", str(folder), "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server.stdout.readline().split()[-1], server
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def click_at(page, x: float, y: float, **options) -> None:
    place = page.evaluate("([x, y]) => studio.toPage(x, y)", [x, y])
    page.locator("#over").click(position={"x": place[0], "y": place[1]}, **options)


def wait_for(page, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('text').textContent.includes(text)", arg=text, timeout=30_000
    )


def saved_masks(page) -> dict[str, np.ndarray]:
    page.select_option("#what", "masks.zip")
    page.click("#save")
    wait_for(page, "saved:")
    with page.expect_download() as download:
        page.click("#saved")
    with zipfile.ZipFile(BytesIO(Path(download.value.path()).read_bytes())) as archive:
        return {name: np.array(Image.open(archive.open(name))) for name in archive.namelist()}


def expected(clicks: list[tuple[float, float, bool]]) -> list[np.ndarray]:
    """What the Python interface makes of the same clicks, stroke and frames."""
    frames = [frame.image for frame in open_source(CLIP).frames(0, 15)]
    clicker = ClickSegmenter.load()
    clicker.set_image(frames[0])
    mask = None
    for count in range(1, len(clicks) + 1):
        mask = clicker.predict([Click(*click) for click in clicks[:count]], mask=mask)
    segmenter = Segmenter.load("lite-int8")
    labels = [segmenter.step(frames[0], (mask > 0.5).astype(np.uint8))]
    labels[0] = (mask > 0.5).astype(np.uint8)
    labels += [segmenter.step(frame) for frame in frames[1:10]]
    # Frame 10 was tracked once, then corrected: the tracker goes on from before it.
    before = segmenter.snapshot()
    tracked = segmenter.step(frames[10])
    segmenter.restore(before)
    stroke = np.zeros_like(tracked)
    cv2.polylines(stroke, [np.array(STROKE, np.int32) * 16], False, 1, WIDTH, shift=4)
    truth = np.where(stroke > 0, np.uint8(1), tracked)
    segmenter.step(frames[10], truth, correct=True)
    return [*labels, truth, *(segmenter.step(frame) for frame in frames[11:15])]


def test_clicks_tracking_correction_and_a_killed_server(browser, tmp_path):
    shutil.copy(CLIP, tmp_path)
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    with served(tmp_path, str(tmp_path / "dog.mp4")) as (link, server):
        page.goto(link)
        wait_for(page, "ready")
        page.wait_for_selector("body[data-frame='0']")
        page.click("#add")
        page.wait_for_selector("#objects li")
        for x, y in CLICKS:
            page.evaluate("document.getElementById('text').textContent = ''")
            click_at(page, x, y)
            wait_for(page, "mask in")
        # A pointer's places are whole pixels of the screen.
        clicks = page.evaluate("() => studio.clicks()")
        page.evaluate("studio.send('track', { count: 10 })")
        page.wait_for_selector("body[data-frame='10']", timeout=30_000)
        wait_for(page, "ready")
        page.click("[data-tool=brush]")
        page.evaluate(f"document.getElementById('size').value = {WIDTH}")
        page.evaluate("points => studio.send('paint', { object: 1, points, width: 24, mode: 'paint' })", STROKE)
        page.wait_for_function("() => !document.getElementById('undo').disabled && studio.given(10)")
        page.evaluate("studio.send('track', { count: 4 })")
        page.wait_for_selector("body[data-frame='14']", timeout=30_000)
        wait_for(page, "ready")
        masks = saved_masks(page)
        page.screenshot(path=tmp_path / "studio.png")
        server.send_signal(signal.SIGKILL)
    with served(tmp_path, str(tmp_path / "dog.mp4")) as (link, _):
        page.goto(link)
        wait_for(page, "ready")
        again = saved_masks(page)
        assert page.input_value("#objects li input[type=text]") == "object 1"
    page.close()
    assert masks.keys() == again.keys()
    for k, labels in enumerate(expected(clicks)):
        name = sorted(masks)[k]
        np.testing.assert_array_equal(masks[name], again[name])
        np.testing.assert_array_equal(masks[name], labels, err_msg=name)


def test_a_second_page_is_told_and_may_take_over(browser, tmp_path):
    with served(tmp_path) as (link, _):
        first, second = browser.new_page(), browser.new_page()
        first.goto(link)
        wait_for(first, "ready")
        second.goto(link)
        second.wait_for_selector("#take:visible")
        second.click("#take")
        first.wait_for_selector("#take:visible")
        first.close()
        second.close()


def test_without_the_token_nothing_is_served(browser, tmp_path):
    with served(tmp_path) as (link, _):
        page = browser.new_context().new_page()
        assert page.goto(link.split("?")[0]).status == 403
        assert page.goto(link).status == 200
        page.close()
