"""The studio as a person feels it, in a headless Chromium: from a click to its mask, and scrubbing over a long film.

`python -m jointrt.benchmarks.services.studio` prints two tables; it needs the extra `studio`, playwright and chromium.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import av
import cv2
import numpy as np
import typer

from ...runtime.video.sources import open_source
from ..speed.clip import CLIP

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SCRUB = """
([from, count, rate]) => new Promise((done) => {
  const begun = performance.now(), asked = new Map(), late = [];
  let last = -1;
  const shown = () => {
    const at = asked.get(Number(document.body.dataset.frame));  // None of the frame before all these.
    if (at !== undefined) late.push(performance.now() - at);
  };
  const observer = new MutationObserver(shown);
  observer.observe(document.body, { attributeFilter: ["data-frame"] });
  const timer = setInterval(() => {
    const to = from + Math.floor((performance.now() - begun) / 1000 * rate);
    if (to >= from + count) {
      clearInterval(timer);
      observer.disconnect();
      return done({ seconds: (performance.now() - begun) / 1000, late });
    }
    if (to !== last) { last = to; asked.set(to, performance.now()); studio.go(to); }
  }, 4);
})
"""


def main(
    frames: Annotated[int, typer.Option(min=100, help="Of the 1080p film.")] = 1000,
    clicks: Annotated[int, typer.Option(min=5, help="Timed on each film.")] = 20,
    rate: Annotated[float, typer.Option(min=1, help="Frames a second asked for while scrubbing.")] = 15,
) -> None:
    """Measure the studio: clicks on the shipped clip and in 1080p, scrubbing and memory over a long film."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        folder = Path(name)
        shutil.copy(CLIP, folder / "clip.mp4")
        _film(folder / "long.mp4", frames)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        server = subprocess.Popen(
            [sys.executable, "-m", "jointrt.cli", "studio", "--folder", name, "--no-browser"],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout is not None
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            page.goto(server.stdout.readline().split()[-1])
            page.wait_for_function("() => document.getElementById('text').textContent === 'ready'")
            print("| film | click to mask on the screen, ms: median | p90 | of it computed |\n|---|---:|---:|---:|")
            for film in ("clip.mp4", "long.mp4"):
                _open(page, film)
                if film == "long.mp4":
                    _filled(folder, frames)
                _time_clicks(page, film, clicks)
            _scrub(page, server.pid, frames, rate)
        finally:
            server.kill()
            server.wait()
            browser.close()


def _film(path: Path, count: int) -> None:
    """The shipped clip, there and back, 1920x1080."""
    pictures = [cv2.resize(frame.image, (1920, 1080)) for frame in open_source(CLIP).frames(0, 60)]
    order = [*range(60), *range(58, 0, -1)]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=30, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for k in range(count):
            picture = av.VideoFrame.from_ndarray(pictures[order[k % len(order)]], format="rgb24")
            output.mux(stream.encode(picture))
        output.mux(stream.encode())


def _open(page: Any, film: str) -> None:
    page.select_option("#files", film)
    page.wait_for_function("name => document.getElementById('files').value === name && !!studio.project()", arg=film)
    page.wait_for_function("() => studio.project().objects.length === 0")
    page.click("#add")
    page.wait_for_selector("#objects li.chosen")


def _filled(folder: Path, count: int) -> None:
    """Wait until the JPEG cache holds the film, and say how long it took."""
    begun = time.monotonic()
    while len(list((folder / ".jointrt-studio" / ".frames").glob("*/*.jpg"))) < count:
        time.sleep(0.5)
    print(f"(JPEGs of {count} frames: {time.monotonic() - begun:.0f} s)", file=sys.stderr)


def _time_clicks(page: Any, film: str, count: int) -> None:
    """Each on another place near the dog, the first, which loads the network, left out."""
    shown, computed = [], []
    width, height = page.evaluate("studio.size()")
    places = np.random.default_rng(0).uniform((0.38, 0.5), (0.52, 0.75), (count + 1, 2)) * (width, height)
    for x, y in places:
        spot = page.evaluate("([x, y]) => studio.toPage(x, y)", [float(x), float(y)])
        page.evaluate("() => { delete document.body.dataset.shown; document.getElementById('text').textContent = '' }")
        page.locator("#over").click(position={"x": spot[0], "y": spot[1]})
        page.wait_for_function("() => document.getElementById('text').textContent", timeout=30_000)
        text = page.text_content("#text")
        if not text.startswith("mask in"):
            continue
        page.wait_for_function("() => document.body.dataset.shown")
        shown.append(float(page.evaluate("document.body.dataset.shown")))
        computed.append(float(text.split()[2]))
    median, p90 = np.percentile(shown[1:], (50, 90))
    print(f"| {film} {width}x{height} | {median:.0f} | {p90:.0f} | {np.median(computed[1:]):.0f} |", flush=True)


def _scrub(page: Any, server: int, frames: int, rate: float) -> None:
    """Over the film in five parts, memory of both processes after each, garbage collected."""
    tools = page.context.new_cdp_session(page)
    print("\n| frames | shown a second | asked to shown, ms: median | p90 | server, MB | page, MB |")
    print("|---|---:|---:|---:|---:|---:|")
    part = frames // 5
    for start in range(0, part * 5, part):
        told = page.evaluate(SCRUB, [start, part, rate])
        tools.send("HeapProfiler.collectGarbage")
        median, p90 = np.percentile(told["late"], (50, 90))
        print(
            f"| {start} to {start + part - 1} | {len(told['late']) / told['seconds']:.1f} | {median:.0f} | {p90:.0f} "
            f"| {_resident(server):.0f} | {sum(map(_resident, _renderers())):.0f} |",
            flush=True,
        )


def _resident(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    return 0.0


def _renderers() -> list[int]:
    """Chromium's processes of pages, among those that this one began."""
    found: list[int] = []
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            if b"--type=renderer" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return [process for process in found if _began(process, parents)]


def _began(process: int, parents: dict[int, int]) -> bool:
    while process > 1:
        if process == os.getpid():
            return True
        process = parents.get(process, 0)
    return False


if __name__ == "__main__":
    typer.run(main)
