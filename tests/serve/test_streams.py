"""Real servers on loopback, with real clients."""

import importlib.util
import io
import json
import struct
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from jointrt.runtime.segmenter import Segmenter  # noqa: E402
from jointrt.runtime.settings import Options  # noqa: E402
from jointrt.serve.access import StreamAccess  # noqa: E402
from jointrt.serve.app import create_app  # noqa: E402
from jointrt.serve.limits import Limits  # noqa: E402
from pycocotools import mask as coco  # noqa: E402
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

CLIENT = Path(__file__).parents[2] / "examples" / "live_client.py"


@contextmanager
def served(access=None, **limits):
    limits = Limits(**{"options": Options(threads=1, memory=3, interval=2), **limits})
    app = create_app(limits, access or StreamAccess(""))
    config = uvicorn.Config(app, port=0, log_level="warning", ws_max_size=limits.message_bytes, ws_max_queue=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def asked(url, **headers):
    """Status and text of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, ""


def film(number, count=6):
    """Frames (T, 64, 96, 3) with a moving square, and its first mask."""
    rng = np.random.default_rng(number)
    back, labels = rng.integers(0, 255, (64, 96, 3), np.uint8), np.zeros((64, 96), np.uint8)
    labels[20:44, 30:60] = 1
    frames = np.repeat(back[None], count, 0)
    for step in range(count):
        frames[step, 20 + step : 44 + step, 30 + step : 60 + step] = (200, 40, 10 * number)
    return frames, labels


def png(labels):
    return cv2.imencode(".png", labels)[1].tobytes()


def message(number, frame, mask=b"", **header):
    body = {"id": number, "mask": len(mask), **header}
    if not isinstance(frame, bytes):
        body |= {"form": "raw", "size": frame.shape[:2]}
        frame = frame.tobytes()
    text = json.dumps(body).encode()
    return struct.pack("<I", len(text)) + text + mask + frame


def unpack(data):
    end = 4 + struct.unpack_from("<I", data)[0]
    return json.loads(data[4:end]), data[end:]


@contextmanager
def opened(address, **settings):
    with connect(f"ws://{address}/stream", max_size=None) as socket:
        socket.send(json.dumps(settings))
        assert json.loads(socket.recv())["kind"] == "opened"
        yield socket


def stepped(frames, labels, **options):
    segmenter = Segmenter.load("lite", threads=1, **{"memory": 3, "interval": 2, **options})
    return [segmenter.step(frame, None if n else labels) for n, frame in enumerate(frames)]


def test_four_clients_at_once_receive_the_masks_of_step(tmp_path, record_property):
    import av

    spec = importlib.util.spec_from_file_location("live_client", CLIENT)
    client = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(client)
    assert len(CLIENT.read_text().splitlines()) <= 40
    films = [film(n) for n in range(4)]
    for n, (frames, labels) in enumerate(films):
        (tmp_path / f"{n}.png").write_bytes(png(labels))
        with av.open(str(tmp_path / f"{n}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=24)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "bgr0"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    settings = [{}, {"memory": 2}, {"interval": 1}, {"behind": 1}]
    with served() as address, ThreadPoolExecutor(4) as clients:

        def run(n):
            url = f"ws://{address}/stream"
            return client.stream(tmp_path / f"{n}.mkv", tmp_path / f"{n}.png", tmp_path / f"out{n}", url, **settings[n])

        took = list(clients.map(run, range(4)))
        figures = asked(f"http://{address}/metrics")[1]
    for n, (frames, labels) in enumerate(films):
        expected = stepped(frames, labels, **{k: v for k, v in settings[n].items() if k != "behind"})
        received = [np.array(Image.open(p)) for p in sorted((tmp_path / f"out{n}").iterdir())]
        assert sorted(took[n]) == list(range(6)) and np.array_equal(received, expected) and expected[-1].any()
    assert "jointrt_frames_total 24.0" in figures and "jointrt_frames_dropped_total 0.0" in figures
    assert "jointrt_frame_seconds_count 24.0" in figures
    p99 = float(np.quantile(np.concatenate([list(t.values()) for t in took]), 0.99))
    record_property("p99_milliseconds", p99)
    print(f"p99 {p99:.0f} ms")


def test_jpegs_run_lengths_removal_and_a_later_object():
    frames, labels = film(1)
    jpegs = [cv2.imencode(".jpg", f[:, :, ::-1])[1].tobytes() for f in frames]
    decoded = [np.array(Image.open(io.BytesIO(j))) for j in jpegs]
    second = np.zeros_like(labels)
    second[2:14, 70:94] = 2
    segmenter = Segmenter.load("lite", threads=1, memory=3, interval=2)
    expected = [segmenter.step(decoded[0], labels), segmenter.step(decoded[1], second)]
    segmenter.remove(1)
    expected.append(segmenter.step(decoded[2]))
    with served() as address, opened(address, labels="rle", full="wait") as socket:
        socket.send(message(0, jpegs[0], png(labels)))
        socket.send(message(5, jpegs[1], png(second)))
        socket.send(message(9, jpegs[2], remove=[1]))
        answers = [unpack(socket.recv())[0] for _ in range(3)]
        socket.send("end")
        assert json.loads(socket.recv()) == {"kind": "ended", "frames": 3, "dropped": 0}
    assert [a["id"] for a in answers] == [0, 5, 9] and [a["objects"] for a in answers] == [[1], [1, 2], [2]]
    for answer, truth in zip(answers, expected, strict=True):
        found = np.zeros_like(truth)
        for number, counts in answer["runs"].items():
            found[coco.decode({"size": answer["size"], "counts": counts}) == 1] = int(number)
        assert np.array_equal(found, truth)


def test_old_frames_are_dropped_and_said_so_but_never_one_with_a_mask():
    frames, labels = film(2)
    second = np.where(labels, 0, 0).astype(np.uint8)
    second[2:14, 70:94] = 2
    sent = 60
    with served(rate=1e6) as address, opened(address, behind=2) as socket:
        for n in range(sent):
            socket.send(message(n, frames[n % 6], png(labels) if n == 0 else png(second) if n == 7 else b""))
        socket.send("end")
        headers = []
        while isinstance(answer := socket.recv(), bytes):
            headers.append(unpack(answer)[0])
    ids = [h["id"] for h in headers]
    dropped = [n for h in headers for n in h["dropped"]]
    assert ids == sorted(ids) and {0, 7, sent - 1} <= set(ids) and dropped
    assert sorted(ids + dropped) == list(range(sent))
    assert headers[-1]["objects"] == [1, 2]
    assert json.loads(answer) == {"kind": "ended", "frames": len(ids), "dropped": len(dropped)}


FRAMES, LABELS = film(3)
BAD = {
    "no frame": b"\x00",
    "a mask": message(0, b"", b"x" * 9),
    "cannot be read as a JPEG": message(0, b"nothing of the kind", png(LABELS)),
    "raw frame has 5 bytes": message(0, b"12345", form="raw", size=[64, 96]),
    "at most 10000": message(0, np.zeros((101, 100, 3), np.uint8)),
    "mask is 4x4": message(0, FRAMES[0], png(np.ones((4, 4), np.uint8))),
    "no object to follow": message(0, FRAMES[0]),
    "at most 2": message(0, FRAMES[0], png(np.arange(64 * 96, dtype=np.uint8).reshape(64, 96) % 4)),
    "object 9 is not followed": message(0, FRAMES[0], png(LABELS), remove=[9]),
    "malformed: id": message(-1, FRAMES[0]),
    "text is not known": "hello",
}


def test_a_broken_client_is_told_and_hurts_no_other():
    expected = stepped(FRAMES, LABELS)
    with served(pixels=10_000, objects=2, sessions=2) as address, opened(address, full="wait") as good:
        for n, (words, bad) in enumerate(BAD.items()):
            with opened(address) as socket:
                socket.send(bad)
                told = json.loads(socket.recv())
                assert told["kind"] == "error" and words in told["text"], told
                with pytest.raises(ConnectionClosed):
                    socket.recv()
            if n < len(FRAMES):
                good.send(message(n, FRAMES[n], b"" if n else png(LABELS)))
                assert np.array_equal(np.array(Image.open(io.BytesIO(unpack(good.recv())[1]))), expected[n])
        with opened(address) as socket:
            socket.send(message(5, FRAMES[0], png(LABELS)))
            socket.recv()
            socket.send(message(5, FRAMES[1]))
            assert "ids that rise" in json.loads(socket.recv())["text"]
        with opened(address) as socket, pytest.raises(ConnectionClosed) as closed:
            socket.send(bytes(200_000))
            socket.recv()
        assert closed.value.rcvd.code == 1009
        for settings, words in [({"bundle": "../x"}, "not served"), ({"behind": 99}, "behind"), ({"memory": 0}, "mem")]:
            with connect(f"ws://{address}/stream") as socket:
                socket.send(json.dumps(settings))
                assert words in json.loads(socket.recv())["text"]
        with opened(address) as rude:
            rude.send(message(0, FRAMES[0], png(LABELS)))
            rude.socket.close()
        good.send(message(90, FRAMES[0]))
        assert unpack(good.recv())[0]["id"] == 90


def test_sessions_are_limited_and_expire():
    with served(sessions=1, idle=0.5) as address:
        with opened(address) as socket:
            assert json.loads(asked(f"http://{address}/healthz")[1]) == {"status": "ok", "sessions": 1, "of": 1}
            with connect(f"ws://{address}/stream") as other:
                assert "all 1 sessions are taken" in json.loads(other.recv())["text"]
            assert "nothing came" in json.loads(socket.recv())["text"]
        with opened(address) as again:
            again.send("end")
            assert json.loads(again.recv())["kind"] == "ended"
    with served(longest=0.5) as address, connect(f"ws://{address}/stream") as socket:
        assert "lasted 0.5 s" in json.loads(socket.recv())["text"]


def test_only_those_with_the_token_and_pages_that_are_allowed():
    access = StreamAccess("secret", loopback=False, origins=("https://good.example",))
    with served(access) as address:
        url = f"ws://{address}/stream"
        assert asked(f"http://{address}/healthz")[0] == 200
        assert asked(f"http://{address}/metrics")[0] == 403
        assert asked(f"http://{address}/metrics?token=secret")[0] == 200
        for header in ({}, {"Authorization": "Bearer wrong"}):
            with pytest.raises(InvalidStatus):
                connect(url, additional_headers=header)
        bearer = {"Authorization": "Bearer secret"}
        with pytest.raises(InvalidStatus):
            connect(url, additional_headers=bearer, origin="https://bad.example")
        with connect(url, additional_headers=bearer, origin="https://good.example"):
            pass
    with served() as address:
        assert asked(f"http://{address}/metrics", Host="evil.example")[0] == 403
