"""A window on a real display, where the machine can make one."""

import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from jointrt.errors import DeviceError
from jointrt.runtime.video.window import OverlayWindow
from PIL import ImageGrab

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have a display always")


@pytest.fixture
def display(monkeypatch):
    """A virtual display; its name."""
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp", "-noreset"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        name = f":{server.stdout.readline().strip()}"
        monkeypatch.setenv("DISPLAY", name)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        yield name
        server.terminate()


def test_a_picture_is_on_the_screen_until_the_window_is_closed(display):
    picture = np.full((120, 160, 3), (30, 200, 90), np.uint8)

    def pixels():
        return (np.array(ImageGrab.grab(xdisplay=display))[..., :3] == picture[0, 0]).all(-1).sum()

    def until(condition):
        for _ in range(500):
            if condition(pixels()):
                return True
            time.sleep(0.02)
        return False

    with OverlayWindow.opened("a title") as window:
        assert until(lambda shown: window.show(picture) and shown >= 120 * 160 // 2)
    assert until(lambda shown: shown == 0)


@linux
def test_without_a_display_it_is_said_in_one_line(monkeypatch, capfd):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(DeviceError, match="no window can be shown: there is no display"):
        OverlayWindow("a title")
    assert capfd.readouterr().err == ""
