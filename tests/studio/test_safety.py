"""What another page, a link or a made-up file could try on the studio, over real sockets."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
from jointrt.errors import SettingsError
from PIL import Image

from .browser import served, short_clip

pytest.importorskip("fastapi")
connect = pytest.importorskip("websockets.sync.client").connect


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    Image.fromarray(np.full((20, 20, 3), 200, np.uint8)).save(outside / "0.png")
    short_clip(outside / "secret.mp4", 2, side=8)
    folder = tmp_path_factory.mktemp("films")
    short_clip(folder / "short.mp4", 2, side=8)
    (folder / "linked.mp4").symlink_to(outside / "secret.mp4")
    (folder / "linked").symlink_to(outside)
    (folder / "images").mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "images" / "1.png")
    (folder / "images" / "0.png").symlink_to(outside / "0.png")
    with served(folder) as (link, _):
        yield link, folder


def ask(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, body, {k.replace("_", "-"): v for k, v in headers.items()}, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def place(link: str, path: str) -> str:
    base, query = link.split("?")
    return f"{base}{path}?{query}"


def talk(link: str, *messages: dict, origin: str | None = None) -> str:
    """Send messages; returns the first error that is told."""
    url = place(link, "ws").replace("http", "ws", 1)
    with connect(url, origin=origin) as socket:
        for message in messages:
            socket.send(json.dumps(message))
        while True:
            answer = socket.recv(timeout=20)
            if isinstance(answer, str) and (told := json.loads(answer))["kind"] == "error":
                return told["text"]


@pytest.mark.parametrize("path", ["", "studio.js", "frame/0.jpg", "mask/0", "export/coco.json"])
def test_without_a_token_or_from_another_page_nothing_is_served(studio, path):
    link, _ = studio
    assert ask(link.split("?")[0] + path)[0] == 403
    assert ask(link.split("?")[0] + path + "?token=wrong")[0] == 403
    assert ask(place(link, path), Origin="http://example.com")[0] == 403
    assert ask(place(link, path), Host="example.com")[0] == 403
    assert ask(place(link, path), Origin="null")[0] == 403
    assert ask(place(link, path))[0] in (200, 204, 400)


def test_the_socket_wants_the_token_and_its_own_origin(studio):
    link, _ = studio
    rejected = pytest.importorskip("websockets.exceptions").InvalidStatus
    url = link.split("?")[0].replace("http", "ws", 1) + "ws"
    for target, origin in ((url, None), (place(link, "ws").replace("http", "ws", 1), "http://example.com")):
        with pytest.raises(rejected), connect(target, origin=origin):
            pass
    assert "not known" in talk(
        link, {"kind": "open", "name": "short.mp4"}, {"kind": "strange"}, origin=link.split("/?")[0]
    )


@pytest.mark.parametrize(
    "name",
    [
        "../outside0/secret.mp4",
        "/etc/passwd",
        "linked.mp4",
        "linked",
        "linked/secret.mp4",
        "a\0b",
        "x" * 5000,
        "images",
    ],
)
def test_films_lie_under_the_folder(studio, name):
    link, _ = studio
    text = talk(link, {"kind": "open", "name": name})
    assert "the folder that the studio was started with" in text


def test_links_out_of_the_folder_are_not_listed(studio):
    link, _ = studio
    with connect(place(link, "ws").replace("http", "ws", 1)) as socket:
        while (told := json.loads(socket.recv(timeout=20)))["kind"] != "hello":
            pass
    assert sorted(told["files"]) == ["images", "short.mp4"]


@pytest.mark.parametrize("name", ["..%2Fup.mp4", ".hidden.mp4", "page.html", "a%2Fb.mp4"])
def test_uploads_have_a_films_name(studio, name):
    link, folder = studio
    before = sorted(folder.rglob("*"))
    assert ask(place(link, f"upload/{name}"), "PUT", b"x")[0] in (400, 404, 405)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("told", [True, False])
def test_uploads_are_bounded(tmp_path, told):
    """A body that is announced as too large, and one in pieces of no announced size: nothing is left of either."""
    program = (
        "import sys, uvicorn, jointrt.studio.server.uploads as u; from pathlib import Path; u.MAX_UPLOAD = 100_000\n"
        "from jointrt.studio.server.serve import serve\n"
        "serve(None, Path(sys.argv[1]), 0, open_browser=False, say=lambda text: print(text, flush=True))"
    )
    server = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        link = server.stdout.readline().split()[-1]
        body = b"x" * 100_001
        request = urllib.request.Request(place(link, "upload/big.mp4"), body if told else iter([body]), method="PUT")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 400 and "over 100000 bytes" in refused.value.read().decode()
        assert ask(place(link, "upload/small.mp4"), "PUT", body[:-1])[0] == 200
        assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["small.mp4"]
    finally:
        server.kill()
        server.wait()


def record(folder: Path, **changes: object) -> bytes:
    return json.dumps({"fingerprint": "0" * 64, **changes}).encode()


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"project.json": record(Path())}, "film is not in"),
        ({"project.json": record(Path()), "../evil.png": b""}, "evil"),
        ({"project.json": record(Path()), "masks/../../x.png": b""}, "expected masks"),
        ({"project.json": record(Path(), choices={"bundle": "../x"})}, "no project file"),
        ({"masks/000000.png": b""}, "no project file"),
    ],
)
def test_a_project_file_is_data(studio, tmp_path, members, told):
    link, folder = studio
    file = tmp_path / "made.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    status, answer = ask(place(link, "upload/made.zip"), "PUT", file.read_bytes())
    assert status == 200
    assert told in talk(link, {"kind": "bring", "name": json.loads(answer)["name"]})
    assert not list(folder.rglob("evil.png")) and not list(folder.rglob("*.zip"))


def test_a_mask_in_a_project_file_that_unpacks_to_too_much_is_refused(tmp_path):
    from jointrt.studio.server import uploads

    file = tmp_path / "made.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("project.json", record(Path()))
        archive.writestr("masks/000000.png", bytes((16 << 20) + 1))
    with pytest.raises(SettingsError, match="over 16 MiB"):
        uploads.bring(file, tmp_path / "project", (8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["made.zip"]


def test_one_studio_works_on_a_film(tmp_path):
    film = str(short_clip(tmp_path / "a.mp4", 2, side=8))
    command = [sys.executable, "-m", "jointrt.cli", "studio", film, "--no-browser"]
    with served(tmp_path, film):
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2 and "another studio works on a.mp4" in second.stderr
    assert "Traceback" not in second.stderr
    with served(tmp_path, film) as (link, _):
        assert link.startswith("http")
