"""Two copies behind a real Ray Serve on loopback."""

import json
import os
import socket
import urllib.request
from contextlib import ExitStack

import cv2
import numpy as np
import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("prometheus_client")
pytest.importorskip("ray")
pytest.importorskip("ray.serve", exc_type=ImportError)

from jointrt.errors import SettingsError
from jointrt.runtime.segmenter import Segmenter
from jointrt.runtime.settings import Options
from jointrt.serve.access import access_for
from jointrt.serve.limits import Limits
from jointrt.serve.messages import pack
from jointrt.serve.on_ray import streams_on_ray
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

FRAMES = 5


def film(number):
    """Frames (T, 64, 96, 3) with a moving square, and its first mask."""
    rng = np.random.default_rng(number)
    frames, labels = np.repeat(rng.integers(0, 255, (1, 64, 96, 3), np.uint8), FRAMES, 0), np.zeros((64, 96), np.uint8)
    labels[20:44, 30:60] = 1
    for step in range(FRAMES):
        frames[step, 20 + step : 44 + step, 30 + step : 60 + step] = (200, 40, 10 * number)
    return frames, labels


def test_each_stream_stays_with_its_copy_and_has_the_masks_of_step():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = Limits(options=Options(threads=1, memory=3, interval=2), sessions=1)
    access = access_for("127.0.0.1", "a-token", ())
    films = [film(n) for n in range(2)]
    with streams_on_ray(limits, access, "127.0.0.1", port, copies=2), ExitStack() as clients:
        url = f"ws://127.0.0.1:{port}/stream"
        with pytest.raises(InvalidStatus):
            clients.enter_context(connect(url))
        sockets = [clients.enter_context(connect(f"{url}?token=a-token", max_size=None)) for _ in films]
        for one in sockets:
            one.send(json.dumps({"full": "wait"}))
        # A copy has room for one session: these are on two.
        assert [json.loads(one.recv())["kind"] for one in sockets] == ["opened", "opened"]
        got = [[], []]
        for n in range(FRAMES):
            for one, (frames, labels), kept in zip(sockets, films, got, strict=True):
                mask = b"" if n else cv2.imencode(".png", labels)[1].tobytes()
                header = {"id": n, "form": "raw", "size": frames.shape[1:3], "mask": len(mask)}
                one.send(pack(header, mask, frames[n].tobytes()))
                answer = one.recv()
                kept.append(
                    cv2.imdecode(np.frombuffer(answer[answer.index(b"\x89PNG") :], np.uint8), cv2.IMREAD_GRAYSCALE)
                )
        for one in sockets:
            one.send("end")
            assert json.loads(one.recv()) == {"kind": "ended", "frames": FRAMES, "dropped": 0}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
            assert json.load(answer)["status"] == "ok"
    for (frames, labels), kept in zip(films, got, strict=True):
        segmenter = Segmenter.load("lite", threads=1, memory=3, interval=2)
        expected = [segmenter.step(frame, None if n else labels) for n, frame in enumerate(frames)]
        assert np.array_equal(kept, expected)


def test_frames_that_the_proxy_would_not_take_are_refused_before_ray_starts():
    with (
        pytest.raises(SettingsError, match="expected at most"),
        streams_on_ray(Limits(pixels=10**7), access_for("127.0.0.1", None, ()), "127.0.0.1", 1, copies=1),
    ):
        pass
