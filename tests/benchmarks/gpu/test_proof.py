"""The proof for GPUs, rehearsed on a tiny network."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jointrt.benchmarks.gpu import proof as gpu_proof
from jointrt.benchmarks.gpu.parts import Outcome, Part, measured, parts_of_card
from jointrt.benchmarks.gpu.rows import TINY, Row, build_net, gflop_per_frame
from jointrt.errors import DeviceError
from jointrt.runtime.device.cuda_driver import query_cuda_driver

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_whole_script_runs(capsys, tmp_path):
    arguments = "--device cpu --tiny --no-tests --models lite --objects 1 --bundles nowhere --out"
    assert gpu_proof.main([*arguments.split(), str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for technique in (
        "released",
        "incremental",
        "captured",
        "channels-last",
        "+ fp16",
        "20 few-shot",
        "several videos",
    ):
        assert technique in out
    assert "no bundle called or at 'nowhere'" in out
    found = json.loads((tmp_path / "proof.json").read_text())
    rows = {row["key"]: row for row in found["rows"]}
    assert rows["half"]["rate"] == pytest.approx(1000 / rows["half"]["mean"])
    assert rows["videos"]["frames"] == TINY.videos and rows["three"]["rate"] is None
    assert rows["half"]["gflop"] == rows["captured"]["gflop"] > 0
    assert rows["engines"]["problem"].startswith("no bundle")
    assert found["rows"][0]["key"] == "fused"
    assert found["tests"] is None and found["floors"] == []


def test_what_goes_wrong_costs_its_own_part_only():
    """An error, then a process that is ended from outside."""
    good, bad, long = (Part(m, 1, k) for m, k in (("", "product_half"), ("nomodel", "captured"), ("lite", "half")))
    outcomes = measured([bad, good, long, good], TINY, time.monotonic() + 300)
    failed = next(outcomes)
    assert failed.problem.startswith("ValueError: no model is called 'nomodel'")
    assert "build_net" in failed.trace
    assert next(outcomes).row.mean > 0
    for process in multiprocessing.active_children():
        process.kill()
    killed, last = outcomes
    assert killed.problem == "its process ended with exit code -9"
    assert last.row.mean > 0
    assert not multiprocessing.active_children()


def test_a_part_that_hangs_leaves_the_others(tmp_path):
    """Its process is started anew; no part starts within a hundredth of a second."""
    hangs = tmp_path / "hangs.txt"
    parts = [Part("lite", 1, "half"), Part("lite", 1, "three")]
    found = list(measured(parts, TINY, time.monotonic() + 300, limit=0.01, hangs=hangs))
    assert [o.problem for o in found] == ["took more than 0 s"] * 2
    assert not multiprocessing.active_children()


def test_what_is_left_when_the_time_is_over_is_given_up():
    parts = [Part("lite", 1, "half"), Part("lite", 1, "three")]
    assert [o.problem for o in measured(parts, TINY, time.monotonic())] == ["the time was over"] * 2


@pytest.mark.skipif(query_cuda_driver().problem is None, reason="this machine has a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    with pytest.raises(DeviceError, match="no NVIDIA driver"):
        gpu_proof.main(["--no-tests", "--out", str(tmp_path)])


def test_operations_are_counted_as_convolutions_and_products_have_them():
    """The trunk's first convolution alone, and all of it within what a frame may cost."""
    h, w = TINY.crop
    stem = 2 * 32 * 3 * 9 * (h // 2) * (w // 2) / 1e9
    found = [gflop_per_frame(build_net("lite", TINY), TINY, objects) for objects in (1, 3)]
    assert 20 * stem < found[0] < 2000 * stem
    assert found[1] == pytest.approx(3 * found[0])


def row(technique, mean, frames=1, gflop=None):
    return Row("paper", 1, technique, mean, mean, mean, frames, gflop, None)


def test_a_table_sets_rows_beside_the_peak_the_released_algorithm_and_the_floors():
    table = gpu_proof.Table()
    found = {"released": row("", 100.0), "half": row("", 4.0, gflop=160.0), "three": row("", 2.0, 0)}
    table.add(Outcome(parts_of_card()[0], row("", 2.0, 0, gflop=1000.0), None))
    for key, value in found.items():
        table.add(Outcome(Part("paper", 1, key), value, None))
    line = table.add(Outcome(Part("paper", 1, "videos"), None, "out of memory"))
    assert line.endswith("+ several videos in one batch  out of memory")
    assert table.share(found["half"]) == 0.08
    assert table.floors() == [
        "paper: 250.0 frames/s, floor 150: reached",
        "paper: 250.0 frames/s, aim 400: MISSED",
        "paper: 25.0 times the released algorithm, floor 20: reached",
        "paper: 2.0 ms for 3 few-shot steps, at most 1.5: MISSED",
    ]


def test_rates_are_those_of_all_frames_and_of_all_videos():
    """A fifth of the frames, with an update, takes longer: the median would not see it."""
    times = [2.0, 2.0, 2.0, 2.0, 7.0]
    assert Row.of("lite", 1, "", times, 8).rate == pytest.approx(8000 / 3)
    assert Row.of("lite", 1, "", times, 0).rate is None
    assert Row.of("lite", 1, "", times[:1], 1).p99 is None


ABSENT = ("av", "openvino", "scipy", "typer", "onnxscript", "xdist", "pycuda", "tensorrt", "ray", "fastapi")
"""What a bare machine with torch for CUDA may lack."""
HIDE = "import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
"""What is None there cannot be imported, and is not found either."""


def test_every_test_of_a_gpu_is_found_on_a_bare_machine(tmp_path):
    """Without pytest's plugins too: one that asks for more would take all others along."""
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(absent=set(ABSENT)))
    paths = [str(tmp_path), *(str(Path(entry).resolve()) for entry in sys.path if entry)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [*gpu_proof.tests_command(tmp_path / "tests.xml"), "--collect-only"]
    root = Path(gpu_proof.__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert all(Path(name).name in done.stdout for name in gpu_proof.TESTS)


def test_a_report_of_the_tests_is_read(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="a" name="good"/><testcase classname="a" name="bad"><failure/></testcase>'
        '<testcase classname="a" name="out"><skipped message="no GPU"/></testcase>'
        '<testcase classname="a" name="none"><error/></testcase>'
        "</testsuite></testsuites>"
    )
    found = gpu_proof.read_report(report)
    assert found == {"passed": 1, "skipped": {"no GPU": 1}, "failed": ["a::bad", "a::none"], "problem": None}
