"""What is handed out: source archive and wheel, the images' recipes, the docs site."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def tracked(*ignored):
    """Names of the tracked files, but for those in some folders."""
    found = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if found.returncode:
        pytest.skip("needs git, to know which files are the project's")
    return [name for name in found.stdout.decode().split("\0") if name and not name.startswith(ignored)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel made from the source archive made from the tracked files."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    for name in tracked("tests/", "runs/"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tree / name)

    def build(kind, where):
        script = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(folder)!r}))"
        made = subprocess.run([sys.executable, "-c", script], cwd=where, capture_output=True, text=True, check=True)
        return folder / made.stdout.splitlines()[-1]

    shutil.unpack_archive(build("sdist", tree), folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", unpacked)


def test_the_wheel_has_what_the_project_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name.removeprefix("jointrt/") for name in archive.namelist() if name.startswith("jointrt/")}
    sources = {name for name in tracked("tests/", "docs/", "studio/page/") if name.endswith(".py")}
    wanted = {*sources, "py.typed", "engines/lite-int8/manifest.json", "examples/dog.mp4", "studio/static/index.html"}
    wanted |= {"fleet/report.html"}
    assert wanted <= held


def test_the_wheel_segments_the_shipped_clip(wheel, tmp_path):
    """Unpacked elsewhere, beside the libraries that are installed here."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    examples = tmp_path / "site/jointrt/examples"
    script = "import jointrt, sys; print(jointrt.__file__); from jointrt.cli import main; main()"
    arguments = ("run", examples / "dog.mp4", "--mask", examples / "dog.png", "--end", "2", "-o", tmp_path / "out")
    made = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(str(tmp_path / "site"))
    assert len(list((tmp_path / "out/masks").iterdir())) == 2


@pytest.mark.parametrize("recipe", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_an_images_recipe_is_clean(recipe):
    hadolint = shutil.which("hadolint", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    if hadolint is None:
        pytest.skip("needs hadolint")
    assert subprocess.run([hadolint, str(recipe)], capture_output=True, text=True, check=False).stdout == ""


def test_the_docs_site_is_whole(tmp_path):
    """Every page is in the contents, and every link leads somewhere."""
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", str(ROOT / "docs"), "-d"]
    made = subprocess.run(
        [*command, str(tmp_path / "cache"), str(ROOT), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "README.html" in (tmp_path / "site/index.html").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the loader of Linux")
@pytest.mark.parametrize("use", ["from jointrt.cli import main; main()", "from jointrt import Segmenter"])
def test_without_libgl_one_line_says_what_to_install(tmp_path, use):
    """The loader meets a libGL that is none, as on a system without one."""
    (tmp_path / "libGL.so.1").write_bytes(b"")
    env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    if subprocess.run([sys.executable, "-c", "import cv2"], env=env, capture_output=True, check=False).returncode == 0:
        pytest.skip("this OpenCV needs no libGL")
    made = subprocess.run(
        [sys.executable, "-c", use, "run", "a.mp4", "--mask", "a.png", "-o", str(tmp_path / "out")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == (2 if "cli" in use else 1)
    assert "opencv-python-headless" in made.stderr.splitlines()[-1]
    assert ("Traceback" in made.stderr) == ("cli" not in use)
