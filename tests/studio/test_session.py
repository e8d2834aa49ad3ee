"""The session without a page: what is ready before it is asked for, what is dropped, what cannot be written."""

import queue
import threading
import time

import numpy as np
import pytest
from jointrt import Segmenter
from jointrt.runtime.clicks.prompts import Click
from jointrt.runtime.clicks.segmenter import ClickSegmenter

from .browser import short_clip

pytest.importorskip("fastapi")
from jointrt.studio.record import Choices
from jointrt.studio.session import Session


@pytest.fixture
def session(tmp_path):
    """A session on a short clip with one object, and what it tells."""
    told, shown = queue.Queue(), []
    film = short_clip(tmp_path / "short.mp4", 4)
    made = Session(
        film, film.name, tmp_path / "project", tmp_path / "cache", told.put, lambda *masks: shown.append(masks)
    )
    made.project.add()
    yield made, told, shown
    made.close()


def until(told, kind):
    """Messages up to one of a kind."""
    messages = [told.get(timeout=60)]
    while messages[-1]["kind"] != kind:
        messages.append(told.get(timeout=60))
    return messages


def becomes(true):
    """Whether something comes to be within a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not true():
        time.sleep(0.05)
    return true()


def test_a_frame_that_is_looked_at_is_ready_for_clicks(session):
    made, _, _ = session
    assert becomes(lambda: made.clicking.ready(0))
    made.look(1)
    made.look(2)
    assert becomes(lambda: made.clicking.ready(2))


def test_clicks_that_were_overtaken_are_dropped(session):
    made, told, shown = session
    gate = threading.Event()
    made.submit(lambda: gate.wait(60) and None)
    clicks = [Click(190, 150), Click(205, 165), Click(180, 140, positive=False)]
    for count in (1, 2, 3):
        made.click(0, 1, clicks[:count], None)
    gate.set()
    made.submit(lambda: told.put({"kind": "end"}))
    assert [message["kind"] for message in until(told, "end")].count("clicked") == 1
    alone = ClickSegmenter.load()
    alone.set_image(made.frames.exact(0))
    ((frame, labels),) = shown
    assert frame == 0
    np.testing.assert_array_equal(labels == 1, alone.predict(clicks) > 0.5)


def test_a_mask_that_cannot_be_written_is_taken_back(session):
    made, told, shown = session
    (made.project.folder / "history" / "000000.done" / "in the way").mkdir(parents=True)
    made.paint(0, 1, np.array([[60, 60], [160, 60]], np.float32), 20, "paint")
    back, error = until(told, "error")
    assert len(shown) == 1 and back["changed"] == [0]
    assert "000000.done" in error["text"]
    assert not made.project.labels(0).any() and not made.project.record.given


def test_tracking_computes_as_is_chosen(session):
    made, told, _ = session
    chosen = {"bundle": "lite-int8", "memory": 3, "interval": 1, "windows": "released", "share": "frame"}
    made.choose(Choices.model_validate(chosen))
    made.paint(0, 1, np.array([[190, 130], [210, 170]], np.float32), 40, "paint")
    made.track(0, count=3)
    until(told, "tracked")
    maps = {"chosen": Segmenter.load(**chosen), "default": Segmenter.load("lite-int8")}
    for name, segmenter in maps.items():
        labels = [segmenter.step(made.frames.exact(0), made.project.labels(0))]
        maps[name] = [*labels, *(segmenter.step(made.frames.exact(k)) for k in (1, 2, 3))]
    tracked = [made.project.labels(k) for k in range(4)]
    np.testing.assert_array_equal(tracked[1:], maps["chosen"][1:])
    assert (np.array(tracked[1:]) != maps["default"][1:]).any()
