"""Many clips through several processes, on a small clip."""

import json

import pytest
from jointrt.benchmarks.speed.processes import LONG_FRAMES, SHORT_FRAMES, ThroughputRequest
from jointrt.benchmarks.speed.report.throughput import run_throughput
from jointrt.errors import SettingsError, VideoError
from jointrt.export.parity.graphs import CLIP
from jointrt.runtime.backends import choose
from jointrt.runtime.worker_shape import WorkerShape, guessed_shape, kept_shape, usual_shapes


def test_the_best_is_printed_written_and_kept(tiny_bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert kept_shape(tiny_bundle, choose(tiny_bundle)) is None
    shapes = (WorkerShape(1, 2), WorkerShape(2, 1))
    request = ThroughputRequest(
        bundle=str(tiny_bundle.folder), source=CLIP, shapes=shapes, long_clips=1, rounds=1, backend="onnxruntime"
    )
    run_throughput(request, tmp_path / "figures.json")
    told = json.loads((tmp_path / "figures.json").read_text())
    assert told["frames"] == LONG_FRAMES + 4 * SHORT_FRAMES
    assert [len(shape["seconds"]) for shape in told["shapes"]] == [1, 1]
    rates = [told["frames"] / sum(shape["seconds"]) for shape in told["shapes"]]
    assert rates == pytest.approx([shape["frames_per_second"] for shape in told["shapes"]])
    best = max(range(2), key=rates.__getitem__)
    assert kept_shape(tiny_bundle, choose(tiny_bundle, "onnxruntime")) == shapes[best] == WorkerShape(**told["best"])
    printed = capsys.readouterr().out
    assert all(str(shape) in printed for shape in shapes) and f"takes {shapes[best]} here" in printed


def test_what_cannot_be_measured_is_refused_before_a_process_starts(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for wrong, kind in (({"source": tmp_path / "none.mp4"}, VideoError), ({"memory": 0}, SettingsError)):
        with pytest.raises(kind):
            run_throughput(ThroughputRequest(bundle=str(tiny_bundle.folder), **wrong), None)


def test_shapes():
    assert [str(s) for s in usual_shapes(2)] == [
        "1 process of 2 threads",
        "2 processes of 1 thread",
        "3 processes of 1 thread",
    ]
    assert usual_shapes(1) == (WorkerShape(1, 1), WorkerShape(2, 1))
    assert all(s.processes * s.threads <= 13 for s in usual_shapes(12)) and guessed_shape().threads == 1
    assert WorkerShape.read("12x4") == WorkerShape(12, 4)
    for wrong in ("2", "2x", "0x1", "2x1x1", "-1x2", "2X1"):
        with pytest.raises(SettingsError, match="expected PxT"):
            WorkerShape.read(wrong)
