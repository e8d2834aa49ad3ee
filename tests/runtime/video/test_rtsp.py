"""A real RTSP server, GStreamer's, which is a package of the system (`gir1.2-gst-rtsp-server-1.0`, `python3-gi`)."""

import subprocess
import sys

import av
import numpy as np
import pytest
from jointrt.errors import VideoError
from jointrt.runtime.video.live import open_live
from jointrt.runtime.video.sources import open_source

COUNT = 30
SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer(service="0", address="127.0.0.1")
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(sys.argv[1])
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@pytest.fixture
def rtsp():
    """A function of GStreamer's words for what is sent; gives the address and the server's process."""
    servers = []

    def serve(words):
        # The system's packages are its own Python's.
        for python in (sys.executable, "/usr/bin/python3"):
            try:
                server = subprocess.Popen([python, "-c", SERVER, f"( {words} )"], stdout=-1, stderr=-1, text=True)
            except FileNotFoundError:
                continue
            servers.append(server)
            if port := server.stdout.readline().strip():
                return f"rtsp://127.0.0.1:{port}/live", server
        pytest.skip("needs GStreamer's RTSP server, which Python's gi reaches")

    yield serve
    for server in servers:
        server.kill()
        server.communicate()


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"crf": "8", "g": "4", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        rng = np.random.default_rng(1)
        for _ in range(COUNT):
            image = np.kron(rng.integers(0, 255, (8, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode())
    return path


def test_a_recording_behind_a_server_has_the_files_frames(rtsp, film):
    address, _ = rtsp(f"filesrc location={film} ! matroskademux ! rtph264pay name=pay0 pt=96 config-interval=1")
    source = open_live(address)
    # It says how long it lasts.
    assert source.keep_all
    got, held = list(source.frames()), list(open_source(film).frames())
    assert len(got) == COUNT and all(np.array_equal(a.image, b.image) for a, b in zip(got, held, strict=True))
    with pytest.raises(VideoError, match=r"nothing cannot be opened: .*404"):
        open_live(address.replace("live", "nothing"))


def test_a_camera_behind_a_server_gives_frames_of_now_until_the_server_is_gone(rtsp):
    address, server = rtsp(
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=96,height=64,framerate=50/1 "
        "! jpegenc ! rtpjpegpay name=pay0 pt=26"
    )
    source = open_live(address.replace("//", "//me:word@"))
    assert source.path == address and not source.keep_all and source.size == (64, 96)
    frames = source.frames()
    seen = [next(frames) for _ in range(20)]
    assert [f.index for f in seen] == sorted({f.index for f in seen}) and np.ptp(seen[-1].image) > 200
    assert not np.array_equal(seen[0].image, seen[-1].image)
    server.kill()
    assert len(list(frames)) < 50
