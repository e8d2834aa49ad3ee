"""The tracked page is what its sources build."""

import shutil
import subprocess
from pathlib import Path

import jointrt
import pytest

STUDIO = Path(jointrt.__file__).parent / "studio"


@pytest.mark.skipif(shutil.which("npm") is None, reason="there is no npm, which builds the page: install Node 20")
def test_the_page_is_built_from_its_sources(tmp_path):
    shutil.copytree(STUDIO / "page", tmp_path / "page", ignore=shutil.ignore_patterns("node_modules"))
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=tmp_path / "page", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    built = {file.name: file.read_bytes() for file in (tmp_path / "static").iterdir()}
    assert built == {file.name: file.read_bytes() for file in (STUDIO / "static").iterdir()}
