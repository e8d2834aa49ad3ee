"""A real Ray of two nodes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
fsspec = pytest.importorskip("fsspec")
pytest.importorskip("ray")

from jointrt.errors import DeviceError  # noqa: E402
from jointrt.fleet.batch import run_batch  # noqa: E402
from jointrt.runtime.job.quiet import Quiet  # noqa: E402
from jointrt.runtime.job.run import Request, segment_video  # noqa: E402


class Killer:
    """Kills the worker that is still busy when the first clip ends."""

    killed = None

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    def begin(self, total, workers):
        self.workers = workers

    def ended(self, row):
        if self.killed is None and row.get("worker"):
            self.killed = next(w for w in self.workers if w != row["worker"])
            os.kill(int(self.killed.rpartition(":")[2]), signal.SIGKILL)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_two_nodes_a_killed_worker_and_bad_clips(tmp_path, cluster, make_clip, plan_for):
    clips = {f"clip{n}": make_clip(tmp_path, n) for n in range(10)}
    (tmp_path / "corrupt.mkv").write_bytes(b"not a video" * 50)
    rows = [{"video": str(v), "mask": str(m)} for v, m in clips.values()]
    with fsspec.open("memory://clips/clip9.mkv", "wb") as stream:
        stream.write(clips["clip9"][0].read_bytes())
    rows[9]["video"] = "memory://clips/clip9.mkv"
    rows += [
        {"video": str(tmp_path / "corrupt.mkv"), "mask": rows[0]["mask"]},
        {"video": rows[0]["video"], "name": "bare"},
    ]
    table = tmp_path / "clips.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, killer = tmp_path / "out", Killer()
    report = run_batch(str(table), plan_for(out), killer, address=cluster.address, workers=2)
    assert report.counts == {"segmented": 10, "failed": 2}
    told = {row["name"]: row for row in map(json.loads, (out / "report.jsonl").read_text().splitlines())}
    assert "not a video" in told["corrupt"]["error"] and "no mask" in told["bare"]["error"]
    assert [r["retried"] for r in told.values() if r["retried"]] == [f"{killer.killed} died"]
    assert sorted(p.name for p in out.iterdir()) == sorted([*clips, "report.html", "report.jsonl"])
    for name, (video, mask) in clips.items():
        alone = tmp_path / "alone" / name
        segment_video(Request(source=video, mask=mask, out=alone, threads=1, overlay=False), Quiet())
        expected = {p.name: p.read_bytes() for p in (alone / "masks").iterdir()}
        assert len(expected) == 3 and np.array(Image.open(alone / "masks" / "00002.png")).any()
        assert {p.name: p.read_bytes() for p in (out / name / "masks").iterdir()} == expected


def test_a_bundle_that_ends_its_process_as_it_is_loaded_is_not_loaded_for_ever(
    tmp_path, monkeypatch, make_clip, plan_for
):
    broken, log = tmp_path / "broken", tmp_path / "log"
    broken.mkdir()
    # An engine library that takes its process with it, as one does that has no memory left.
    (broken / "onnxruntime.py").write_text(
        f"import os, signal\nopen({str(log)!r}, 'a').write('x')\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{broken}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    video, mask = make_clip(tmp_path, 1)
    (tmp_path / "t.jsonl").write_text(json.dumps({"video": str(video), "mask": str(mask)}))
    with pytest.raises(DeviceError, match="a worker died 3 times while it loaded lite") as caught:
        run_batch(str(tmp_path / "t.jsonl"), plan_for(tmp_path / "out"), Killer(), workers=1)
    assert "\n" not in str(caught.value) and log.read_text() == "xxx"
    assert not (tmp_path / "out").exists()


def test_a_batch_that_is_interrupted_leaves_whole_clips_and_is_gone_on_with(tmp_path, make_clip):
    rows = [dict(zip(("video", "mask"), map(str, make_clip(tmp_path, n, 30)), strict=True)) for n in range(2)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jointrt.cli", "batch", str(tmp_path / "t.jsonl"), "-o", str(out)]
    command += ["--bundle", "lite", "--workers", "1", "--threads", "1"]

    def listen():
        # What a shell starts in the background is deaf to it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True, preexec_fn=listen) as process:
        while not list(out.glob(".parts/clip*/*/masks/*.png")) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1]
    assert process.returncode == 130 and "--resume does the rest" in said, said
    left = {p.name for p in out.iterdir()} - {"report.html", "report.jsonl"}
    assert len(left) < 2 and all((out / name / "done.json").is_file() for name in left)
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    assert sorted(p.name for p in out.iterdir()) == ["clip0", "clip1", "report.html", "report.jsonl"]
    assert {len(list((out / f"clip{n}" / "masks").iterdir())) for n in range(2)} == {30}
