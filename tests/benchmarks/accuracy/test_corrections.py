"""What corrected frames gain, in closed forms: squares that a follower loses at a known pace."""

import csv
import re
import sys

import numpy as np
import pytest
from jointrt.benchmarks.accuracy import corrections
from jointrt.benchmarks.accuracy.corrections import Corrected, CorrectionRequest, evaluate_corrections, worst_place
from jointrt.benchmarks.accuracy.metrics import boundary_accuracy, region_similarity
from jointrt.cli import main
from jointrt.errors import DatasetError, SettingsError
from PIL import Image

SIZE = (64, 120)
COUNT = 10
STEP = 2
"""Columns that the square moves from frame to frame."""


class Still:
    """Leaves every object where it was given last."""

    def reset(self):
        self.labels = None

    def step(self, frame, mask=None, *, correct=False):
        if mask is not None:
            assert correct == (self.labels is not None)
            self.labels = mask
        return self.labels


def square(t):
    labels = np.zeros(SIZE, np.uint8)
    labels[20:40, 10 + STEP * t : 30 + STEP * t] = 1
    return labels


def quality(shift):
    """J&F of a square that lies so many frames' steps off."""
    pair = square(shift) > 0, square(0) > 0
    return (region_similarity(*pair) + boundary_accuracy(*pair)) / 2


@pytest.fixture
def davis(tmp_path):
    root = tmp_path / "davis"
    for part in ("JPEGImages", "Annotations"):
        (root / part / "480p" / "solo").mkdir(parents=True)
    for t in range(COUNT):
        Image.fromarray(np.repeat(square(t)[..., None] * 200, 3, axis=2)).save(
            root / f"JPEGImages/480p/solo/{t:05d}.jpg"
        )
        Image.fromarray(square(t) * 255).save(root / f"Annotations/480p/solo/{t:05d}.png")
    return root


def test_the_worst_frame_is_mended_and_those_behind_it_gain(davis, monkeypatch, tmp_path, display):
    """The last scored frame, 8, is the worst; but behind it nothing counts, so that 7 is mended, then 6."""
    monkeypatch.setattr(corrections.Segmenter, "load", lambda *a, **k: Still())
    file = tmp_path / "figures.csv"
    (found,) = evaluate_corrections(CorrectionRequest(root=davis, corrections=2, csv=file), display)
    assert [found.scored[p] for p in found.places] == ["00007", "00006"]
    assert display.done == display.total == 3 * COUNT
    shifts = [range(1, 9), [1, 2, 3, 4, 5, 6, 0, 1], [1, 2, 3, 4, 5, 0, 0, 1]]
    for counted, expected in zip(found.passes, shifts, strict=True):
        assert counted[0] == pytest.approx([quality(s) for s in expected])
    assert found.behind(1) == (pytest.approx([quality(8)]), pytest.approx([quality(1)]))
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [(r["sequence"], r["corrections"], r["corrected"]) for r in rows] == [
        *(("solo", str(n), frame) for n, frame in enumerate(("", "00007", "00006"))),
        *(("mean", str(n), "") for n in range(3)),
    ]
    # Of the frames that are mended in no pass.
    assert float(rows[0]["JF"]) == pytest.approx(np.mean([quality(s) for s in (1, 2, 3, 4, 5, 8)]))
    assert float(rows[2]["JF"]) == pytest.approx(np.mean([quality(s) for s in (1, 2, 3, 4, 5, 1)]))
    assert (rows[0]["behind_with"], float(rows[1]["behind_with"])) == ("", pytest.approx(quality(1)))


def test_a_sequence_that_is_mended_throughout_is_mended_no_more(davis, monkeypatch, display):
    monkeypatch.setattr(corrections.Segmenter, "load", lambda *a, **k: Still())
    (found,) = evaluate_corrections(CorrectionRequest(root=davis, corrections=20), display)
    assert len(found.places) == COUNT - 3
    assert found.quality(20) == found.quality(COUNT - 3)
    assert found.behind(20) == ([], [])


def test_objects_count_where_they_count():
    """The second object is scored in two frames only; the worst frame is that of the lowest mean."""
    none = np.nan
    before = np.array([[0.9, 0.5, 0.8, 0.7], [none, 0.9, none, 0.1]])
    assert worst_place(before, []) == 1
    assert worst_place(before, [1]) == 2
    after = np.array([[0.9, 1.0, 0.9, 0.9], [none, 1.0, none, 0.5]])
    found = Corrected("s", ("a", "b", "c", "d"), (1,), (before, after))
    assert found.quality(0) == pytest.approx([0.8, 0.1])
    assert found.behind(1) == (pytest.approx([0.75, 0.1]), pytest.approx([0.9, 0.5]))


def test_what_cannot_be_corrected_is_refused(davis, display):
    with pytest.raises(SettingsError, match="corrections is 0: expected 1 to 100"):
        evaluate_corrections(CorrectionRequest(root=davis, corrections=0), display)
    for t in range(1, COUNT):
        (davis / f"Annotations/480p/solo/{t:05d}.png").unlink()
    with pytest.raises(DatasetError, match="no truth beyond the given masks for solo"):
        evaluate_corrections(CorrectionRequest(root=davis), display)


def test_the_command_corrects_with_the_shipped_model(davis, disc, monkeypatch, capsys):
    for t in range(COUNT):
        frame, mask = disc(t)
        Image.fromarray(frame).save(davis / f"JPEGImages/480p/solo/{t:05d}.jpg", quality=95)
        Image.fromarray(mask * 255).save(davis / f"Annotations/480p/solo/{t:05d}.png")
    command = ["jointrt", "eval", str(davis), "--corrections", "1"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    row = re.search(r"solo.*", capsys.readouterr().out)[0]
    figures = [float(value) for value in re.findall(r"\d\.\d+", row)]
    assert len(figures) == 4 and all(0.5 < value <= 1 for value in figures)
    monkeypatch.setattr(sys, "argv", [*command, "--baseline", "flow", "--resume"])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1
    assert "--corrections and --baseline and --resume are given" in error
