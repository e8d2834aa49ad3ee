"""One worker without Ray: resuming, formats, tables."""

import json
import shutil
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("fsspec")

import av
import fsspec
import numpy as np
import pyarrow
from jointrt.errors import DatasetError, OutputError, SettingsError
from jointrt.fleet import stores
from jointrt.fleet.batch import Earlier, check_batch, long_first, shaped
from jointrt.fleet.table import Clip, read_clips, read_names
from jointrt.fleet.worker import Worker
from jointrt.runtime.backends import choose
from jointrt.runtime.bundle import Bundle
from jointrt.runtime.settings import available_cores
from jointrt.runtime.worker_shape import WorkerShape, keep_shape
from PIL import Image
from pyarrow import parquet
from pycocotools import mask as coco


def files_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_formats_hold_the_same_labels_and_twice_gives_the_same_bytes(tmp_path, make_clip, plan_for):
    video, mask = make_clip(tmp_path, 1)
    clip = Clip("one", str(video), str(mask))
    for kind in ("png", "ffv1", "rle"):
        out = tmp_path / kind
        out.mkdir()
        assert Worker(plan_for(out, kind=kind)).segment(clip, {})["error"] is None
        first = files_of(out)
        assert Worker(plan_for(out, kind=kind)).segment(clip, {})["state"] == "segmented"
        assert files_of(out) == first
        assert kind == "png" or len(first) == 3
    masks = sorted((tmp_path / "png" / "one" / "masks").iterdir())
    truth = [np.array(Image.open(p)) for p in masks]
    with av.open(str(tmp_path / "ffv1" / "one" / "masks.mkv")) as container:
        video_labels = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
    assert np.array_equal(video_labels, truth)
    held = json.loads((tmp_path / "rle" / "one" / "masks.json").read_text())
    for path, labels in zip(masks, truth, strict=True):
        run = {"size": held["size"], "counts": held["frames"][path.stem]["1"]}
        assert np.array_equal(coco.decode(run), labels == 1)


def test_resume_leaves_what_is_there_and_refuses_another_request(tmp_path, make_clip, plan_for):
    video, mask = make_clip(tmp_path, 1)
    out = tmp_path / "out"
    out.mkdir()
    worker = Worker(plan_for(out, resume=True))
    assert worker.segment(Clip("one", str(video), str(mask)), {})["state"] == "segmented"
    before = files_of(out)
    assert worker.segment(Clip("one", str(video), str(mask)), {})["state"] == "present"
    assert "another request" in worker.segment(Clip("one", str(video), str(mask), end=2), {})["error"]
    shutil.copy(video, tmp_path / "copy")
    shutil.copy(tmp_path / "copy", video)
    assert worker.segment(Clip("one", str(video), str(mask)), {})["state"] == "present"
    Image.fromarray(np.ones((64, 96), np.uint8)).save(mask)
    assert "another request" in worker.segment(Clip("one", str(video), str(mask)), {})["error"]
    other = Worker(plan_for(out, resume=True, windows="steady"))
    assert "another request" in other.segment(Clip("one", str(video), str(mask)), {})["error"]
    assert files_of(out) == before


def test_what_a_batch_leaves_of_an_earlier_one_is_known(tmp_path, make_clip, plan_for):
    clips = [dict(zip(("video", "mask"), map(str, make_clip(tmp_path, n)), strict=True)) for n in (1, 2)]
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in clips))
    out = tmp_path / "out"
    for name in ("clip2", "old", "older"):
        (out / name).mkdir(parents=True)
    (out / "report.html").touch()
    with pytest.raises(OutputError, match="holds files"):
        check_batch(str(table), plan_for(out), overwrite=False)
    names = check_batch(str(table), plan_for(out), overwrite=True)
    earlier = Earlier(*fsspec.url_to_fs(str(out)))
    assert len(names) == 2 and earlier.others(names) == "old, older"
    assert earlier.holds("clip2") and not earlier.holds("clip1")


def test_workers_have_the_shape_that_was_found_best_here(tmp_path, monkeypatch, plan_for):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bare = plan_for(tmp_path, threads=None)
    cores = available_cores()
    plan, workers, why = shaped(bare, None, alone=True)
    assert (plan.request.threads, workers) == (1, cores) and "a guess" in why
    bundle = Bundle.open("lite")
    keep_shape(bundle, choose(bundle), WorkerShape(3, 2), 1.0)
    plan, workers, why = shaped(bare, None, alone=True)
    assert (plan.request.threads, workers) == (2, 3) and "found here" in why
    assert shaped(bare, None, alone=False)[1] is None
    assert shaped(bare, 1, alone=True)[0].request.threads == cores
    plan, workers, why = shaped(plan_for(tmp_path, threads=5), 7, alone=True)
    assert (plan.request.threads, workers, why) == (5, 7, "")
    on_gpu = plan_for(tmp_path, threads=None, device="cuda")
    assert shaped(on_gpu, None, alone=True)[0].gpu_share == 1
    keep_shape(bundle, choose(bundle, device="cuda"), WorkerShape(4, 2), 1.0)
    plan, workers, why = shaped(on_gpu, None, alone=True)
    assert (plan.gpu_share, plan.request.threads, workers) == (0.25, 2, None) and "for each GPU" in why


def test_a_table_reads_alike_in_every_form(tmp_path):
    rows = [{"video": "/a/x.mp4", "mask": "/a/x.png", "end": 9}, {"video": "s3://b/y.mp4", "mask": "", "end": None}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "t.csv").write_text("video,mask,end\n/a/x.mp4,/a/x.png,9\ns3://b/y.mp4,,\n")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    read = [list(read_clips(str(tmp_path / f"t.{kind}"))) for kind in ("jsonl", "csv", "parquet")]
    assert read[0] == read[1] == read[2]
    assert [c.length for c in read[0]] == [9, None] and read[0][1].fault == "the row gives no mask"


@pytest.mark.parametrize("name", ["../up", "..", ".hidden", "a/b", "a\\b", "a*", "a\nb", "report.html", "\u00fc" * 101])
def test_a_name_that_is_no_folders_is_refused(tmp_path, name):
    (tmp_path / "t.jsonl").write_text(json.dumps({"video": "x.mp4", "mask": "x.png", "name": name}))
    with pytest.raises(DatasetError, match="cannot be a clip's name"):
        read_names(str(tmp_path / "t.jsonl"))


def test_names_are_words_of_any_language_and_come_from_addresses_without_what_they_ask(tmp_path):
    videos = ["/a/Z\u00fcrich 1.mp4", "https://host/c/x.mp4?key=a/b.c", "s3://b/\u72ac.mov"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"video": v, "mask": "m"}) + "\n" for v in videos))
    assert [c.name for c in read_clips(str(tmp_path / "t.jsonl"))] == ["Z\u00fcrich 1", "x", "\u72ac"]
    for name in (".ipynb_checkpoints", "bear"):
        (tmp_path / "set" / "JPEGImages" / name).mkdir(parents=True)
    (tmp_path / "set" / "Annotations").mkdir()
    assert [c.name for c in read_clips(str(tmp_path / "set"))] == ["bear"]
    (tmp_path / "set" / "JPEGImages" / "report.html").mkdir()
    with pytest.raises(DatasetError, match="cannot be a clip's name"):
        read_names(str(tmp_path / "set"))


def test_two_rows_of_one_name_and_what_is_no_table_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("video,mask\n/a/x.mp4,m\n/b/x.avi,m\n")
    with pytest.raises(DatasetError, match="two clips are called x"):
        read_names(str(tmp_path / "t.csv"))
    for inputs, kind, said in (
        ("none.csv", DatasetError, "none.csv cannot be read as a table: it is not there"),
        ("nosuch://a/b.csv", SettingsError, "Protocol not known"),
        ("http://127.0.0.1:9/t.csv", DatasetError, "cannot be read as a table: .*"),
    ):
        with pytest.raises(kind, match=said) as caught:
            read_names(inputs)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("out", "kind", "said"),
    [
        ("memory://out", OutputError, "in a worker's memory"),
        ("http://127.0.0.1:9/out", OutputError, "can be read only"),
        ("nosuch://a/b", SettingsError, "Protocol not known"),
        ("s3://bucket/out", OutputError, "cannot be reached: "),
        ("FILE/below", OutputError, "is no folder"),
        ("FILE", OutputError, "is no folder"),
    ],
)
def test_where_no_results_can_go_is_refused_before_anything_starts(tmp_path, monkeypatch, plan_for, out, kind, said):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    (tmp_path / "file").touch()
    with pytest.raises(kind, match=said) as caught:
        check_batch("none.csv", plan_for(out.replace("FILE", str(tmp_path / "file"))), overwrite=False)
    assert "\n" not in str(caught.value)


@pytest.fixture
def web(tmp_path):
    """Address of a web server that has the files of a folder, and of one that takes a request and says nothing."""
    kinds = {".mkv": "text/html"}
    handler = partial(type("Files", (SimpleHTTPRequestHandler,), {"extensions_map": kinds}), directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", f"http://127.0.0.1:{silent.getsockname()[1]}"
        server.shutdown()


def test_clips_come_from_web_servers_and_one_that_is_silent_fails_its_own_clip_only(
    tmp_path, monkeypatch, web, make_clip, plan_for
):
    monkeypatch.setattr(stores, "SILENT_SECONDS", 1.0)
    video, mask = make_clip(tmp_path, 1)
    out, (files, silent) = tmp_path / "out", web
    out.mkdir()
    worker = Worker(plan_for(out))
    # The server calls the film a page: it is not looked through for links.
    row = worker.segment(Clip("one", f"{files}/{video.name}", f"{files}/{mask.name}"), {})
    assert (row["error"], row["frames"]) == (None, 3)
    for url, said in ((f"{silent}/x.mkv", "cannot be read: nothing came for 1 s"), (f"{files}/no.mkv", "is not there")):
        row = worker.segment(Clip("two", url, f"{files}/{mask.name}"), {})
        assert row["error"].startswith(url) and said in row["error"]
    row = worker.segment(Clip("three", str(tmp_path / "no.mkv"), str(mask)), {})
    assert row["error"] == f"{tmp_path / 'no.mkv'} cannot be read: it is not there"
    assert [p.name for p in out.iterdir() if p.name != ".parts"] == ["one"] and not list(out.rglob(".parts/*/*"))


def test_long_clips_go_first():
    clips = [Clip(str(n), "v", "m", length=n) for n in (3, 9, 1, 5)]
    assert [c.length for c in long_first(iter(clips))] == [9, 5, 3, 1]


def test_results_on_a_real_s3_server(tmp_path, monkeypatch, make_clip, plan_for):
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    s3fs = pytest.importorskip("s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = server_of(ip_address="127.0.0.1", port=port)
    server.start()
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        s3 = s3fs.S3FileSystem()
        s3.mkdir("clips")
        video, mask = make_clip(tmp_path, 1)
        s3.put_file(str(video), "clips/in/one.mkv")
        s3.put_file(str(mask), "clips/in/one.png")
        clip = Clip("one", "s3://clips/in/one.mkv", "s3://clips/in/one.png")
        assert Worker(plan_for("s3://clips/out")).segment(clip, {})["error"] is None
        here = tmp_path / "local"
        here.mkdir()
        Worker(plan_for(here)).segment(Clip("one", str(video), str(mask)), {})
        expected = {p.name: p.read_bytes() for p in (here / "one" / "masks").iterdir()}
        assert {p: s3.cat_file(f"clips/out/one/masks/{p}") for p in expected} == expected
        assert Worker(plan_for("s3://clips/out", resume=True)).segment(clip, {})["state"] == "present"
    finally:
        server.stop()
