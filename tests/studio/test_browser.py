"""A person's work on the shipped clip in a real Chromium, held against the Python interface."""

import json
import shutil
import signal

import cv2
import numpy as np
import pytest
from jointrt import Click, ClickSegmenter, Segmenter
from jointrt.runtime.video.sources import open_source

from .browser import CLIP, at_rest, click_at, drag, edited, saved_masks, served, wait_for

pytest.importorskip("fastapi")
CLICKS = [(380, 300), (420, 330)]
STROKE = [(300, 100), (340, 110)]
WIDTH = 24
SPY = """
window.sent = [];
const send = WebSocket.prototype.send;
WebSocket.prototype.send = function (text) { sent.push(text); send.call(this, text); };
true
"""


def expected(clicks: list[tuple[float, float, bool]], line: list[tuple[float, float]]) -> list[np.ndarray]:
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
    cv2.polylines(stroke, [np.round(np.array(line, np.float32) * 16).astype(np.int32)], False, 1, WIDTH, shift=4)
    truth = np.where(stroke > 0, np.uint8(1), tracked)
    segmenter.step(frames[10], truth, correct=True)
    return [*labels, truth, *(segmenter.step(frame) for frame in frames[11:15])]


def test_clicks_tracking_correction_and_a_killed_server(page, tmp_path):
    shutil.copy(CLIP, tmp_path)
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
        page.evaluate(SPY)
        edited(page, lambda: drag(page, *STROKE))
        sent = [json.loads(text) for text in page.evaluate("sent")]
        line = next(message["points"] for message in sent if message["kind"] == "paint")
        page.evaluate("studio.send('track', { count: 2 })")
        at_rest(page, 12)
        server.send_signal(signal.SIGKILL)
    with served(tmp_path, str(tmp_path / "dog.mp4")) as (link, server):
        page.goto(link)
        wait_for(page, "ready")
        assert page.input_value("#objects li input[type=text]") == "object 1"
        page.evaluate("studio.go(12)")
        page.wait_for_selector("body[data-frame='12']")
        page.evaluate("studio.send('track', { count: 2 })")
        at_rest(page, 14)
        masks = saved_masks(page)
        page.screenshot(path=tmp_path / "studio.png")
        server.send_signal(signal.SIGKILL)
    with served(tmp_path, str(tmp_path / "dog.mp4")) as (link, _):
        page.goto(link)
        wait_for(page, "ready")
        again = saved_masks(page)
    assert masks.keys() == again.keys()
    for k, labels in enumerate(expected(clicks, line)):
        name = sorted(masks)[k]
        np.testing.assert_array_equal(masks[name], again[name])
        np.testing.assert_array_equal(masks[name], labels, err_msg=name)


def test_a_second_page_is_told_and_may_take_over(chromium, tmp_path):
    with served(tmp_path) as (link, _):
        first, second = chromium.new_page(), chromium.new_page()
        first.goto(link)
        wait_for(first, "ready")
        second.goto(link)
        second.wait_for_selector("#take:visible")
        second.click("#take")
        first.wait_for_selector("#take:visible")
        first.close()
        second.close()


def test_without_the_token_nothing_is_served(page, tmp_path):
    with served(tmp_path) as (link, _):
        assert page.goto(link.split("?")[0]).status == 403
        assert page.goto(link).status == 200
