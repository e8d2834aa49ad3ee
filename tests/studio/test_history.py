"""What can be undone outlives the server."""

import subprocess
import sys

import numpy as np
import pytest
from jointrt.errors import OutputError

pytest.importorskip("fastapi")
from jointrt.studio.history import MOST
from jointrt.studio.project import Project

SIZE = (40, 30)
WORK = """
import os, signal, sys
from pathlib import Path
import numpy as np
from jointrt.studio.project import Project
project = Project(Path(sys.argv[1]), "film", (40, 30))
project.add()
for frame, width in ((3, 5), (3, 9), (7, 4)):
    project.edit(frame, 1, np.arange(40) < np.full((30, 1), width))
assert project.undo() == 7
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path):
    """A project of three changes, the last one undone, whose process was killed."""
    done = subprocess.run([sys.executable, "-c", WORK, str(tmp_path / "project")], check=False)
    assert done.returncode < 0
    return tmp_path / "project"


def widths(project):
    return [int((project.labels(frame) == 1).sum()) // SIZE[1] for frame in (3, 7)]


def test_a_killed_studio_can_undo_and_make_again(folder):
    project = Project(folder, "film", SIZE)
    assert widths(project) == [9, 0]
    assert (project.describe()["undo"], project.describe()["redo"]) == (2, 1)
    assert project.undo(again=True) == 7
    assert widths(project) == [9, 4]
    assert [project.undo() for _ in range(4)] == [7, 3, 3, None]
    assert widths(project) == [0, 0]
    assert project.record.given == {}
    project.close()
    project = Project(folder, "film", SIZE)
    assert [project.undo(again=True) for _ in range(4)] == [3, 3, 7, None]
    assert widths(project) == [9, 4]
    assert project.record.given == {3: [1], 7: [1]}


def test_a_new_change_ends_what_was_undone(folder):
    project = Project(folder, "film", SIZE)
    project.edit(7, 1, np.ones(SIZE[::-1], bool))
    project.close()
    project = Project(folder, "film", SIZE)
    assert (project.describe()["undo"], project.describe()["redo"]) == (3, 0)
    assert project.undo() == 7
    assert widths(project) == [9, 0]


def test_an_object_that_goes_takes_its_history_along(folder):
    project = Project(folder, "film", SIZE)
    project.remove(1)
    project.close()
    assert Project(folder, "film", SIZE).undo() is None


def test_the_oldest_changes_go(folder):
    project = Project(folder, "film", SIZE)
    for k in range(MOST + 5):
        project.edit(3, 1, np.arange(SIZE[0]) < np.full((SIZE[1], 1), k % 30))
    assert project.describe()["undo"] == len(list((folder / "history").iterdir())) == MOST


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"frame": 3, "before": "eA==", "after": "eA==", "given_before": [], "given_after": []}']
)
def test_a_damaged_history_is_told_and_changes_nothing(folder, content):
    max((folder / "history").glob("*.done")).write_bytes(content)
    project = Project(folder, "film", SIZE)
    with pytest.raises(OutputError, match="damaged"):
        project.undo()
    assert widths(project) == [9, 0]
    assert project.undo() is None
