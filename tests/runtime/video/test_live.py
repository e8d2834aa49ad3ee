"""Live sources over real sockets, pipes and devices; what is expected is what the same bytes give as a file."""

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from jointrt.errors import SettingsError, VideoError
from jointrt.runtime.job.quiet import Quiet
from jointrt.runtime.job.run import Job, Request, segment_video
from jointrt.runtime.video.live import is_live, live_name, open_live
from jointrt.runtime.video.masks import write_label_map
from jointrt.runtime.video.sources import open_source

COUNT = 30


@pytest.fixture
def film(tmp_path):
    """A function of a suffix: a film of a disc that moves."""

    def make(suffix="ts"):
        path = tmp_path / f"film.{suffix}"
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=25, options={"crf": "8", "g": "4", "bf": "0"})
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            for t in range(COUNT):
                rows, columns = np.mgrid[:64, :96]
                image = np.random.default_rng(1).integers(0, 90, (64, 96, 3), dtype=np.uint8)
                image[(rows - 32) ** 2 + (columns - 30 - 2 * t) ** 2 < 14**2] = (230, 180, 40)
                output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            output.mux(stream.encode())
        return path

    return make


@pytest.fixture
def tcp():
    """A function that sends a file once to whoever connects; gives the address."""
    listeners = []

    def serve(path):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def send():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(path.read_bytes())

        threading.Thread(target=send, daemon=True).start()
        return f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    for listener in listeners:
        listener.close()


def same_as_file(frames, path, numbers=range(COUNT)):
    held = list(open_source(path).frames())
    assert [f.index for f in frames] == list(numbers) and [f.name for f in frames] == [f"{i:05d}" for i in numbers]
    assert all(np.array_equal(f.image, held[f.index].image) for f in frames)
    assert all(a.time - frames[0].time == held[a.index].time - held[frames[0].index].time for a in frames)
    return True


def joined():
    """Wait until the thread that reads the source has ended."""
    for thread in threading.enumerate():
        if thread.name == "live":
            thread.join()


def test_every_frame_of_a_tcp_stream_is_kept_where_that_is_asked_for(film, tcp):
    path = film()
    source = open_live(tcp(path), keep_all=True)
    assert (source.size, source.rate, source.count) == ((64, 96), Fraction(25), None)
    assert same_as_file(list(source.frames()), path)
    assert source.dropped == 0 and source.damage is None
    with pytest.raises(VideoError, match="its frames come once"):
        next(source.frames())


def test_a_slow_reader_gets_the_newest_in_order_and_is_told_how_many_it_missed(film, tcp):
    path = film()
    source = open_live(tcp(path))
    frames = source.frames()
    got = [next(frames)]
    joined()
    got += frames
    assert same_as_file(got, path, [0, COUNT - 1])
    assert source.dropped == COUNT - 2


def test_a_frame_that_has_a_mask_is_never_dropped(film, tcp):
    path = film()
    source = open_live(tcp(path))
    source.need({5, 7})
    frames = source.frames(2, 11, 1)
    got = [next(frames), next(frames)]
    while got[-1].index < 5:
        got.append(next(frames))
    got.append(next(frames))
    while got[-1].index < 7:
        got.append(next(frames))
    joined()
    got += frames
    numbers = [f.index for f in got]
    assert numbers[0] == 2 and {5, 7} <= set(numbers) and numbers == sorted(set(numbers)) and numbers[-1] == 10
    assert source.dropped == 9 - len(got)


def test_a_film_behind_an_address_is_no_less_than_the_film(film, tmp_path):
    path = film("mkv")
    films = tmp_path

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=films)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}/film.mkv"
        # It says how long it lasts: nothing is dropped unasked.
        source = open_live(f"http://somebody:secret@{address}?key=secret")
        assert source.path == f"http://{address}"
        frames = source.frames()
        got = [next(frames)]
        assert same_as_file([*got, *frames], path)
        with pytest.raises(VideoError, match=r"cannot be opened: .*404"):
            open_live(f"http://{address}.not")
        server.shutdown()


def test_a_stream_of_packets_that_nobody_ends(film):
    path = film()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", free.getsockname()[1])
    found = []
    reader = threading.Thread(target=lambda: found.append(open_live(f"udp://127.0.0.1:{address[1]}")), daemon=True)
    reader.start()
    data = path.read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        # Whoever comes late to a stream has missed its beginning: it is sent until somebody listens.
        while not found:
            for place in range(0, len(data), 1316):
                sender.sendto(data[place : place + 1316], address)
            reader.join(0.02)
    image = found[0].peek(0)
    assert any(np.array_equal(image, frame.image) for frame in open_source(path).frames())


def test_a_stream_on_the_standard_input_has_the_files_masks_and_ends_when_it_is_told_to(film, tmp_path, tiny_bundle):
    path, mask = film(), tmp_path / "mask.png"
    rows, columns = np.mgrid[:64, :96]
    write_label_map(mask, ((rows - 32) ** 2 + (columns - 30) ** 2 < 14**2).astype(np.uint8))
    bundle = str(tiny_bundle.folder)
    segment_video(Request(source=path, mask=mask, out=tmp_path / "file", bundle=bundle, threads=1), Quiet())
    out = tmp_path / "live"
    command = [sys.executable, "-m", "jointrt.cli", "run", "-", "--mask", mask, "--bundle", bundle, "--keep-all"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*map(str, command), "--threads", "1", "-o", str(out)], **pipes) as process:
        process.stdin.write(path.read_bytes())
        process.stdin.flush()
        # A packet is known to be whole when the next comes, and a decoder may be behind: nothing follows the last ones.
        while process.poll() is None and len(list(out.glob("masks/*.png"))) < COUNT - 4:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 0, said
    assert "the standard input is read as it comes: all its frames are kept" in said
    told = json.loads((out / "report.json").read_text())
    names = sorted(str(p.relative_to(out)) for p in out.glob("masks/*.png"))
    assert (told["frames"], told["dropped"]) == (len(names), 0) and len(names) >= COUNT - 4
    assert not (out / ".run.json").exists()
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "file" / name).read_bytes()


def test_a_camera_is_read_by_opencv_until_it_is_gone(film):
    path = film("mkv")
    source = open_live(f"camera:{path}", keep_all=True)
    capture = cv2.VideoCapture(str(path))
    frames = list(source.frames())
    assert len(frames) == COUNT and all(np.array_equal(f.image, capture.read()[1][..., ::-1]) for f in frames)
    assert [f.time for f in frames] == sorted({f.time for f in frames})
    assert "broke off" in source.damage


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("camera:97", "camera:97 cannot be opened: expected a camera's number"),
        ("tcp://127.0.0.1:9", "cannot be opened: .*refused"),
        ("nosuch://a/b", "cannot be opened: .*[Pp]rotocol not found"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(source, said, capfd):
    with pytest.raises(VideoError, match=said):
        open_live(source)
    assert capfd.readouterr().err == ""


def test_text_is_no_stream(tmp_path, tcp):
    (tmp_path / "text.txt").write_text("a text that a terminal could show\n" * 500)
    with pytest.raises(VideoError, match="tcp://"):
        open_live(tcp(tmp_path / "text.txt"))


def test_names_of_results():
    assert [live_name(s) for s in ("-", "camera:/dev/video2", "rtsp://me:word@door:554/live")] == [
        "stdin",
        "camera-dev-video2",
        "door",
    ]
    assert [is_live(s) for s in ("-", "camera:0", "rtsp://door/live", "clip.mp4", "a/b", "C:/clip.mp4")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]


def test_what_comes_once_cannot_be_gone_on_with_nor_gone_back_in(film, tcp, tmp_path):
    source, mask = open_live(tcp(film())), tmp_path / "mask.png"
    for typed, said in (({"resume": True}, "--resume"), ({"start_mask": 3}, "--backward or --start-mask")):
        with pytest.raises(SettingsError, match=f"{said} with a live source"):
            Job.prepare(Request(source=source, mask=mask, out=tmp_path / "out", **typed))
