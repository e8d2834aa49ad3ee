"""A studio that is served, a Chromium that looks at it, and what a person does there."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import av
import jointrt
import numpy as np
from jointrt.runtime.video.sources import open_source
from PIL import Image

CHROMIUM = shutil.which("chromium")
COUNT = 8
"""Frames of the short clip."""
CLIP = Path(jointrt.__file__).parent / "examples" / "dog.mp4"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


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


def short_clip(path: Path, count: int, side: int = 2) -> Path:
    """The first frames of the shipped clip, smaller."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 854 // side // 2 * 2, 480 // side, "yuv420p"
        for frame in open_source(CLIP).frames(0, count):
            small = np.ascontiguousarray(frame.image[::side, ::side][:, : stream.width])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(small, format="rgb24")))
        output.mux(stream.encode())
    return path


def at(page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the film lies on the page."""
    place = page.evaluate("([x, y]) => studio.toPage(x, y)", [x, y])
    corner = page.locator("#over").bounding_box()
    return corner["x"] + place[0], corner["y"] + place[1]


def click_at(page, x: float, y: float, **options) -> None:
    place = page.evaluate("([x, y]) => studio.toPage(x, y)", [x, y])
    page.locator("#over").click(position={"x": place[0], "y": place[1]}, **options)


def drag(page, *points: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point), steps=4)
    page.mouse.up()


def wait_for(page, text: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('text').textContent.includes(text)", arg=text, timeout=30_000
    )


def edited(page, act) -> None:
    """Do something that adds a step of undo, and wait for it."""
    before = page.evaluate("studio.project().undo")
    act()
    page.wait_for_function("n => studio.project().undo === n", arg=before + 1, timeout=30_000)


def at_rest(page, frame: int) -> None:
    """Wait until a frame is shown and nothing is tracked or saved."""
    page.wait_for_selector(f"body[data-frame='{frame}']", timeout=30_000)
    page.wait_for_function("() => !studio.view().busy", timeout=30_000)


def mask_of(page, frame: int) -> np.ndarray:
    """A frame's label map, as the server gives it to the page: a count, where runs start, their ids."""
    content, (width, height) = page.evaluate(
        "async k => [[...new Uint8Array(await (await fetch(`mask/${k}`)).arrayBuffer())], studio.size()]", frame
    )
    count = int.from_bytes(bytes(content[:4]), "little")
    starts = np.frombuffer(bytes(content[4 : 4 + 4 * count]), "<u4")
    lengths = np.diff(np.append(starts, width * height))
    return np.repeat(np.array(content[4 + 4 * count :], np.uint8), lengths).reshape(height, width)


def saved(page, what: str) -> bytes:
    page.select_option("#what", what)
    page.evaluate("document.getElementById('text').textContent = ''")
    page.click("#save")
    wait_for(page, "saved:")
    with page.expect_download() as download:
        page.click("#saved")
    return Path(download.value.path()).read_bytes()


def saved_masks(page) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(BytesIO(saved(page, "masks.zip"))) as archive:
        return {name: np.array(Image.open(archive.open(name))) for name in archive.namelist()}
