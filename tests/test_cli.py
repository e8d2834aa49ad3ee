import dataclasses
import importlib.metadata
import inspect
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from jointrt import cli
from jointrt.benchmarks.accuracy.clicks import ClickEvaluationRequest
from jointrt.benchmarks.accuracy.compare import CompareRequest
from jointrt.benchmarks.accuracy.evaluate import EvaluationRequest
from jointrt.benchmarks.speed.bench import BenchRequest
from jointrt.cli import accuracy, clicks, segment, speed
from jointrt.runtime.bundle import installed_bundles
from jointrt.runtime.clicks.job import MaskRequest
from jointrt.runtime.job.run import STATE_EVERY, Request
from jointrt.runtime.video.masks import davis_palette, read_label_map, write_label_map
from PIL import Image

EXAMPLES = Path(cli.__file__).parents[1] / "examples"
CLIP, MASK = EXAMPLES / "dog.mp4", EXAMPLES / "dog.png"

needs_lite = pytest.mark.skipif(
    "lite" not in [path.name for path in installed_bundles()], reason="no bundle called lite is in engines/"
)


def call(monkeypatch, *arguments):
    """The exit code of `jointrt ARGUMENTS` in this process."""
    monkeypatch.setattr(sys, "argv", ["jointrt", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


def process(*arguments, before="pass"):
    """A process that runs `jointrt ARGUMENTS`, after some Python."""
    code = f"import sys; {before}; from jointrt.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Sources and masks that cannot be used, beside a pair that can."""
    folder = tmp_path_factory.mktemp("inputs")
    labels = read_label_map(MASK)
    write_label_map(folder / "good.png", labels)
    write_label_map(folder / "empty.png", np.zeros_like(labels))
    write_label_map(folder / "small.png", labels[::2, ::2])
    Image.fromarray(davis_palette()[labels]).save(folder / "rgb.png")
    Image.fromarray(cv2.GaussianBlur((labels > 0) * np.uint8(255), (5, 5), 0)).save(folder / "smooth.png")
    many = np.arange(labels.size, dtype=np.uint32).reshape(labels.shape) // 1000
    Image.fromarray(many.astype(np.uint16)).save(folder / "many.png")
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(9999))
    (folder / "cut.mp4").write_bytes(CLIP.read_bytes()[:100_000])
    with av.open(str(folder / "none.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        output.start_encoding()
        output.mux(stream.encode(None))
    (folder / "file").touch()
    return folder


@pytest.mark.parametrize(
    ("source", "mask", "options", "said"),
    [
        ("missing.mp4", "good.png", "", "missing.mp4 does not exist"),
        ("noise.mp4", "good.png", "", "noise.mp4 is not a video"),
        ("cut.mp4", "good.png", "", "truncated"),
        ("none.mp4", "good.png", "", "holds no frame"),
        (CLIP, "missing.png", "", "missing.png does not exist"),
        (CLIP, "small.png", "", "small.png is 427x240, the frames of"),
        (CLIP, "empty.png", "", "empty.png is empty"),
        (CLIP, "rgb.png", "", "no palette"),
        (CLIP, "smooth.png", "", "anti-aliased"),
        (CLIP, "many.png", "", "expected at most 255"),
        (CLIP, "good.png", "--bundle none", "no bundle called or at 'none'"),
        (CLIP, "good.png", "--start 200", "start is 200"),
        (CLIP, "good.png", "--resume --overwrite", "both overwrite and resume"),
    ],
)
def test_bad_input_gives_one_line_and_code_2_and_leaves_nothing(
    monkeypatch, capfd, tmp_path, inputs, source, mask, options, said
):
    out = tmp_path / "out"
    code = call(monkeypatch, "run", inputs / source, "--mask", inputs / mask, "-o", out, *shlex.split(options))
    shown, complaint = capfd.readouterr()
    assert code == 2
    assert not shown
    assert complaint.startswith("error: ")
    assert complaint.count("\n") == 1
    assert said in complaint
    assert not out.exists()


@pytest.mark.parametrize("place", ["file", "file/deeper"])
def test_unwritable_output_folder_is_refused(monkeypatch, capfd, inputs, place):
    assert call(monkeypatch, "run", CLIP, "--mask", MASK, "-o", inputs / place) == 2
    assert capfd.readouterr().err.count("is a file; choose another with -o\n") == 1


def test_help_and_version_load_no_heavy_library():
    heavy = {"torch", "onnx", "onnxruntime", "av", "cv2", "tensorrt"}
    leave = f"import atexit; atexit.register(lambda: print(sorted({heavy} & set(sys.modules))))"
    for argument in ("--help", "--version"):
        asked = process(argument, before=leave)
        shown, complaint = asked.communicate(timeout=60)
        assert (asked.returncode, complaint) == (0, "")
        assert shown.rstrip().endswith("[]")
    assert f"jointrt {importlib.metadata.version('jointrt')}" in shown


def test_doctor_names_versions_devices_providers_and_bundles(monkeypatch, capfd):
    code = call(monkeypatch, "doctor")
    shown = capfd.readouterr().out
    assert code == (0 if installed_bundles() else 2)
    assert importlib.metadata.version("onnxruntime") in shown
    assert "CPUExecutionProvider" in shown
    for bundle in installed_bundles():
        assert bundle.name in shown


NO_ENGINES = "sys.modules['onnxruntime'] = sys.modules['openvino'] = None"


def test_doctor_without_any_engine_says_what_to_install(tmp_path):
    asked = process("doctor", before=NO_ENGINES)
    shown, _ = asked.communicate(timeout=60)
    assert asked.returncode == 2
    assert "jointrt[cpu]" in shown
    assert "nothing can run here" in shown


@needs_lite
def test_run_without_any_engine_names_the_extra(tmp_path):
    out = tmp_path / "out"
    asked = process("run", CLIP, "--mask", MASK, "-o", out, before=NO_ENGINES)
    shown, complaint = asked.communicate(timeout=60)
    assert (asked.returncode, shown, complaint.count("\n")) == (2, "", 1)
    assert "jointrt[cpu]" in complaint
    assert not out.exists()


@needs_lite
@pytest.mark.usefixtures("needs_openvino")
@pytest.mark.parametrize("bundle", ["lite", "lite-int8"])
def test_openvino_alone_is_enough(tmp_path, bundle):
    arguments = ("run", CLIP, "--mask", MASK, "-o", tmp_path / "out", "--end", 3, "--bundle", bundle)
    asked = process(*arguments, before="sys.modules['onnxruntime'] = sys.modules['torch'] = None")
    shown, complaint = asked.communicate(timeout=300)
    assert (asked.returncode, complaint) == (0, "")
    assert "OpenVINO" in shown


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


@needs_lite
def test_run_follows_both_objects_without_torch(tmp_path):
    out = tmp_path / "out"
    asked = process(
        *("run", CLIP, "--mask", MASK, "-o", out, "--end", 6),
        before="sys.modules['torch'] = sys.modules['onnx'] = None",
    )
    shown, complaint = asked.communicate(timeout=300)
    assert (asked.returncode, complaint) == (0, "")
    assert shown.startswith("6 frames, 2 objects, ")
    assert [path.name for path in sorted((out / "masks").iterdir())] == [f"{i:05d}.png" for i in range(6)]
    first, last = read_label_map(MASK), read_label_map(out / "masks" / "00005.png")
    # The woman and the dog hardly move in a sixth of a second.
    assert all(iou(first == object_id, last == object_id) > 0.7 for object_id in (1, 2))
    with av.open(str(out / "overlay.mp4")) as container, av.open(str(CLIP)) as clip:
        assert container.streams.video[0].average_rate == clip.streams.video[0].average_rate


@needs_lite
def test_interrupted_process_resumes_to_the_same_masks(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    common = ("run", CLIP, "--mask", MASK, "--end", 14, "--no-overlay", "--threads", 1)
    assert process(*common, "-o", whole).wait(timeout=300) == 0
    interrupted = process(*common, "-o", out)
    while not (out / "masks" / "00006.png").exists():
        assert interrupted.poll() is None
        time.sleep(0.005)
    interrupted.send_signal(signal.SIGINT)
    _, complaint = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130
    assert "go on with: jointrt run" in complaint
    assert complaint.rstrip().endswith("--resume")
    complete = len(list((out / "masks").iterdir()))
    assert 7 <= complete < 14
    resumed = process(*common, "-o", out, "--resume")
    _, complaint = resumed.communicate(timeout=300)
    assert resumed.returncode == 0
    assert f"goes on after {complete} frames" in complaint
    for path in sorted((whole / "masks").iterdir()):
        assert path.read_bytes() == (out / "masks" / path.name).read_bytes()


@needs_lite
def test_truncated_video_is_segmented_and_reported(monkeypatch, capfd, tmp_path):
    cut = tmp_path / "cut.mkv"
    with av.open(str(CLIP)) as clip, av.open(str(tmp_path / "whole.mkv"), "w") as output:
        stream = output.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(clip.streams.video[0]):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    cut.write_bytes((tmp_path / "whole.mkv").read_bytes()[:100_000])
    assert call(monkeypatch, "run", cut, "--mask", MASK, "-o", tmp_path / "out", "--no-overlay") == 2
    shown, complaint = capfd.readouterr()
    count = len(list((tmp_path / "out" / "masks").iterdir()))
    assert 0 < count < 30
    assert f"{count} of its 120 frames could be read" in complaint
    assert shown.startswith(f"{count} frame")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "Missing"),
        (["run", "a.mp4", "--mask", "b.png", "--every", "often"], "'--every'"),
        (["run", "a.mp4", "--nothing"], "--nothing"),
        (["fly"], "fly"),
        (["train", "--preset", "lite"], "--data"),
    ],
)
def test_every_bad_option_is_one_line(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["jointrt", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.count("\n") == 1 and said in error and error.startswith("error: ")


def test_help_says_how_much_a_killed_run_loses(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["jointrt", "run", "--help"])
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        cli.main()
    assert f"stored every {STATE_EVERY} frames" in capsys.readouterr().out


def test_without_arguments_the_commands_are_shown(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["jointrt"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr()
    assert "bench" in shown.out + shown.err


@pytest.mark.parametrize(
    ("command", "request_type"),
    [
        (segment.run, Request),
        (accuracy.evaluate, EvaluationRequest),
        (accuracy.compare, CompareRequest),
        (speed.bench, BenchRequest),
        (clicks.mask, MaskRequest),
        (clicks.evaluate_clicks, ClickEvaluationRequest),
    ],
)
def test_a_commands_defaults_are_those_of_its_request(command, request_type):
    typed = inspect.signature(command).parameters
    shared = [field for field in dataclasses.fields(request_type) if field.name in typed]
    assert len(shared) >= 3
    for field in shared:
        # Lists are typed as text.
        if not isinstance(field.default, tuple):
            assert typed[field.name].default in (inspect.Parameter.empty, None, field.default), field.name
