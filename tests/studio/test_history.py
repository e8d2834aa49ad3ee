"""What can be undone outlives the server."""

import subprocess
import sys

import numpy as np
import pytest
from jointrt.errors import OutputError

pytest.importorskip("fastapi")
from jointrt.studio.history import MOST
from jointrt.studio.project import Project
from jointrt.studio.record import Object

SIZE = (40, 30)
WORK = """
import os, signal, sys
from pathlib import Path
import numpy as np
from jointrt.studio.project import Project
project = Project(Path(sys.argv[1]), "film", (40, 30))
project.add()
for frame, width in ((3, 5), (3, 9), (7, 4)):
    project.edit(frame, 1, project.merged(frame, 1, np.arange(40) < np.full((30, 1), width)))
assert project.undo() == [7]
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path):
    """A project of three changes, the last one undone, whose process was killed."""
    done = subprocess.run([sys.executable, "-c", WORK, str(tmp_path / "project")], check=False)
    assert done.returncode < 0
    return tmp_path / "project"


def give(project, frame, object_id, region):
    project.edit(frame, object_id, project.merged(frame, object_id, region))


def widths(project):
    return [int((project.labels(frame) == 1).sum()) // SIZE[1] for frame in (3, 7)]


def test_a_killed_studio_can_undo_and_make_again(folder):
    project = Project(folder, "film", SIZE)
    assert widths(project) == [9, 0]
    assert (project.describe()["undo"], project.describe()["redo"]) == (2, 1)
    assert project.undo(again=True) == [7]
    assert widths(project) == [9, 4]
    assert [project.undo() for _ in range(4)] == [[7], [3], [3], None]
    assert widths(project) == [0, 0]
    assert project.record.given == {}
    project.close()
    project = Project(folder, "film", SIZE)
    assert [project.undo(again=True) for _ in range(4)] == [[3], [3], [7], None]
    assert widths(project) == [9, 4]
    assert project.record.given == {3: [1], 7: [1]}


def test_a_new_change_ends_what_was_undone(folder):
    project = Project(folder, "film", SIZE)
    give(project, 7, 1, np.ones(SIZE[::-1], bool))
    project.close()
    project = Project(folder, "film", SIZE)
    assert (project.describe()["undo"], project.describe()["redo"]) == (3, 0)
    assert project.undo() == [7]
    assert widths(project) == [9, 0]


def test_an_object_that_was_removed_comes_back_everywhere(folder):
    """After a restart too, with its name, and below what was made before it."""
    project = Project(folder, "film", SIZE)
    project.rename(1, "dog", "#102030")
    project.add()
    give(project, 3, 2, np.arange(SIZE[0]) >= np.full((SIZE[1], 1), 30))
    give(project, 8, 1, np.ones(SIZE[::-1], bool))
    before = {frame: project.labels(frame) for frame in project.frames()}
    record = project.record.model_copy(deep=True)
    assert project.remove(1) == [3, 8]
    assert [item.id for item in project.record.objects] == [2]
    assert project.record.given == {3: [2]}
    assert not any((project.labels(frame) == 1).any() for frame in project.frames())
    assert project.add().id == 3
    project.close()
    project = Project(folder, "film", SIZE)
    assert project.undo() == [3, 8]
    for frame, labels in before.items():
        np.testing.assert_array_equal(project.labels(frame), labels)
    assert [item.name for item in project.record.objects] == ["dog", "object 2", "object 3"]
    assert (project.record.given, project.record.seen) == (record.given, record.seen)
    assert project.undo(again=True) == [3, 8]
    assert project.record.given == {3: [2]} and not (project.labels(8)).any()
    assert [project.undo() for _ in range(3)] == [[3, 8], [8], [3]]
    np.testing.assert_array_equal(project.labels(3), np.where(before[3] == 2, 0, before[3]))


def test_an_object_that_comes_back_leaves_what_was_tracked_meanwhile(folder):
    project = Project(folder, "film", SIZE)
    project.add()
    project.remove(1)
    project.computed(3, np.full(SIZE[::-1], 2, np.uint8) * (np.arange(SIZE[0]) < 4).astype(np.uint8), {})
    assert project.undo() == [3]
    assert np.bincount(project.labels(3)[0], minlength=3).tolist() == [SIZE[0] - 9, 5, 4]
    assert project.record.seen[3][1].area == 5 * SIZE[1]
    project.undo(again=True)
    assert np.bincount(project.labels(3)[0], minlength=3).tolist() == [SIZE[0] - 4, 0, 4]


def test_ids_of_removed_objects_are_free_again_when_no_other_is(folder):
    project = Project(folder, "film", SIZE)
    project.remove(1)
    project.record.objects = [Object(id=i, name="", colour="#000000") for i in range(2, 256)]
    assert project.add().id == 1
    assert project.undo() is None


def test_the_oldest_changes_go(folder):
    project = Project(folder, "film", SIZE)
    for k in range(MOST + 5):
        give(project, 3, 1, np.arange(SIZE[0]) < np.full((SIZE[1], 1), k % 30))
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
