import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from jointrt import Segmenter
from jointrt.benchmarks.speed.bench import BenchRequest, bench, whole_numbers
from jointrt.benchmarks.speed.clip import CLIP, BenchClip
from jointrt.benchmarks.speed.measure import turns
from jointrt.benchmarks.speed.report.against import change_grids
from jointrt.benchmarks.speed.report.json_file import ReportFile, settings_hash
from jointrt.benchmarks.speed.report.page import as_page
from jointrt.benchmarks.speed.report.plots import draw_plots
from jointrt.benchmarks.speed.report.tables import INDUCTION, as_grids, case_names
from jointrt.benchmarks.speed.throughput import run_clips
from jointrt.benchmarks.speed.trunk import trunk_model
from jointrt.errors import BundleError, MaskError, SettingsError
from jointrt.export.checkpoint.network import bundle_network
from jointrt.export.parity.reference import reference_segmenter
from jointrt.runtime.video.masks import read_label_map, write_label_map
from jointrt.runtime.video.sources import open_source

STAGES = {
    "crop",
    "backbone",
    "query",
    "memory_read",
    "decoder",
    "paste_merge",
    "label_encoder",
    "memory_update",
    "few_shot",
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of six frames of the shipped clip at a quarter of its size, and its mask."""
    folder = tmp_path_factory.mktemp("clip") / "dog"
    folder.mkdir()
    for frame in open_source(CLIP).frames(0, 6):
        cv2.imwrite(str(folder / f"{frame.name}.jpg"), cv2.resize(frame.image[..., ::-1], (212, 120)))
    write_label_map(folder.with_suffix(".png"), read_label_map(CLIP.with_suffix(".png"))[::4, ::4][:, :212].copy())
    return folder


@pytest.fixture(scope="module")
def report(tiny_bundle, clip):
    """Two memory sizes, each beside the reference; one run of the whole clip."""
    request = BenchRequest(
        bundles=(str(tiny_bundle.folder),),
        memory=(2, 3),
        threads=(1,),
        source=clip,
        periods=3,
        reference=True,
        clips=1,
    )
    return bench(request)


def test_the_trunk_is_the_backbone_without_the_adjusters(tiny_bundle):
    source = tiny_bundle.path("backbone.onnx")
    layers = [f"layer{i}" for i in (1, 2, 3, 4)]
    cut = trunk_model(source)
    assert len(onnx.load_from_string(cut).graph.node) < len(onnx.load(str(source)).graph.node)
    crop = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 128)).astype(np.float32)
    sessions = [onnxruntime.InferenceSession(m, providers=["CPUExecutionProvider"]) for m in (cut, str(source))]
    assert [o.name for o in sessions[0].get_outputs()] == layers
    for alone, among in zip(*(session.run(layers, {"crop": crop}) for session in sessions), strict=True):
        np.testing.assert_allclose(alone, among, rtol=1e-4, atol=1e-4)


def test_a_measurement_adds_up(report):
    assert [(c.setup.kind, c.setup.settings.memory, c.against) for c in report.cases] == [
        ("bundle", 2, 0),
        ("reference", 2, 0),
        ("bundle", 3, 0),
        ("reference", 3, 2),
    ]
    for case in report.cases:
        assert len(case.frames) == len(case.write) == 3 * 2
        assert sum(map(sum, case.stages.values())) <= sum(case.frames)
        assert len(case.stages["label_encoder"]) == 3
        assert len(case.stages["backbone"]) == len(case.frames)
    bundle, reference = report.cases[:2]
    assert set(bundle.stages) == STAGES
    assert set(reference.stages) == STAGES - {"memory_read", "memory_update"} | {"memory_encoding"}
    assert len(bundle.trunk) == 3 * 3
    assert reference.trunk_ratio() is None
    assert bundle.trunk_ratio().value == pytest.approx(np.mean(bundle.frames) / np.median(bundle.trunk))
    assert reference.ratio_to(bundle).value == pytest.approx(np.mean(reference.frames) / np.mean(bundle.frames))
    assert len(report.products[1]) == 3 * 3


def test_gflop_follow_the_memory(report):
    """A read costs the same for every stored frame, an update for every other one."""
    small, large = (report.cases[n].gflop for n in (0, 2))
    assert set(small) == STAGES - {"crop", "paste_merge"}
    assert large["memory_read"] == pytest.approx(small["memory_read"] * 3 / 2)
    assert large["backbone"] == small["backbone"]
    assert large["few_shot"] == pytest.approx(small["few_shot"] * 3 / 2)


def test_json_has_the_first_case_at_the_top(report, tmp_path):
    path = tmp_path / "bench.json"
    ReportFile.of(report).write(path)
    stored = json.loads(path.read_text())
    assert ReportFile.read(path) == ReportFile.of(report)
    assert stored["amortised_frame_ms"] == pytest.approx(np.mean(report.cases[0].frames))
    assert stored["trunk_ms"] == pytest.approx(np.median(report.cases[0].trunk))
    assert {"processor", "cores", "onnxruntime", "torch", "python", "jointrt"} <= set(stored["environment"])
    case = stored["cases"][0]
    assert {"fingerprint", "settings", "settings_hash", "warm_up", "frame", "stages", "steady"} <= set(case)
    assert {"p50", "p90", "p99", "min", "mean", "ms_per_frame"} <= set(case["stages"]["decoder"])
    assert len({c["settings_hash"] for c in stored["cases"]}) == 4
    assert os.fsencode(tmp_path) not in path.read_bytes()


def test_tables_name_every_stage(report):
    first, *_ = grids = as_grids(report)
    assert [row[0] for row in first.rows][-4:] == ["frame", "(decode)", "(write)", "(trunk alone)"]
    assert {row[0] for row in first.rows} >= STAGES | {INDUCTION}
    assert all(len(row) == len(grid.header) for grid in grids for row in grid.rows)
    assert [row[0] for row in grids[-2].rows] == [
        "tiny, memory 2",
        "PyTorch reference of tiny, memory 2",
        "tiny, memory 3",
        "PyTorch reference of tiny, memory 3",
    ]


def test_pictures_and_a_page_that_needs_no_other_file(report):
    pictures = draw_plots(report)
    assert set(pictures) == {"stages", "frames", "memory"}
    for png in pictures.values():
        assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).std() > 1
    page = as_page(report, as_grids(report), pictures)
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)|https?:|url\(|<script|<link", page)
    assert page.count("data:image/png;base64,") == 3
    assert "memory_update" in page
    assert report.cases[0].setup.fingerprint in page


@pytest.mark.usefixtures("needs_openvino")
def test_backends_are_swept_beside_one_reference(tiny_bundle, clip):
    found = bench(
        BenchRequest(
            bundles=(str(tiny_bundle.folder),),
            backends=("onnxruntime", "openvino"),
            threads=(1,),
            source=clip,
            periods=1,
            reference=True,
        )
    )
    assert case_names([case.setup for case in found.cases]) == [
        "tiny, onnxruntime",
        "PyTorch reference of tiny",
        "tiny, openvino",
    ]
    assert all(case.trunk for case in found.cases if case.setup.kind == "bundle")
    assert found.cases[2].gflop == found.cases[0].gflop


def test_what_runs_on_a_device_is_a_case_beside_others(tiny_bundle, clip, tmp_path):
    """The device's orchestrator, on the CPU: whole frames, and the rate at which queued frames come back."""
    request = BenchRequest(
        bundles=(str(tiny_bundle.folder),), backends=("torch", "onnxruntime"), threads=(1,), source=clip, periods=3
    )
    found = bench(request)
    on_device, on_host = found.cases
    assert on_device.setup.backend == "torch"
    assert len(on_device.frames) == len(on_host.frames) == 3 * 2
    assert not on_device.stages and not on_device.trunk and not on_device.gflop
    assert on_device.queued > 0 and on_host.queued is None
    path = tmp_path / "device.json"
    ReportFile.of(found).write(path)
    assert ReportFile.read(path).cases[0].frames_per_second_queued == on_device.queued
    assert "where the host works ahead" in as_grids(found)[0].caption
    assert set(draw_plots(found)) == {"stages", "frames"}
    with pytest.raises(SettingsError, match="without --device"):
        bench(dataclasses.replace(request, reference=True))


@pytest.mark.parametrize(
    "path", sorted((CLIP.parents[1] / "benchmarks" / "results").glob("*/*.json")), ids=lambda path: path.stem
)
def test_results_that_are_kept_can_be_compared_with(path):
    stored = ReportFile.read(path)
    assert stored.amortised_frame_ms == stored.cases[0].amortised_frame_ms


def test_cases_take_turns_there_and_back():
    assert list(turns([2, 2, 2])) == [[0, 1, 2], [2, 1, 0]]
    assert list(turns([3, 1])) == [[0, 1], [0], [0]]


def test_the_reference_goes_on_from_a_bundles_memory(tiny_bundle, clip):
    """Same memory, same filter: the same masks, although one of them computes it all anew."""
    shown = BenchClip.read(clip)
    segmenter = Segmenter.load(tiny_bundle.folder, threads=1)
    frames = shown.frames()
    segmenter.step(next(frames), shown.mask(2))
    for _ in range(5):
        segmenter.step(next(frames))
    reference = reference_segmenter(bundle_network(tiny_bundle), segmenter.settings)
    reference.load_state_dict(segmenter.state_dict())
    for _ in range(3):
        frame = next(frames)
        ours, theirs = segmenter.step(frame), reference.step(frame)
        assert np.mean(ours == theirs) > 0.999
        reference.align(segmenter)


def test_an_earlier_run_is_compared_stage_by_stage(report, tmp_path):
    path = tmp_path / "old.json"
    ReportFile.of(report).write(path)
    (grid, *_) = change_grids(ReportFile.read(path), report)
    rows = {row[0]: row for row in grid.rows}
    assert set(rows) == STAGES | {"frame", "(trunk alone)"}
    assert all(row[1] == row[2] and row[3] == "+0.0%" for row in rows.values())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda old: old["environment"].update(processor="Z80"), "processor was Z80"),
        (lambda old: old["environment"].update(onnxruntime="0.1"), "onnxruntime was 0.1"),
        (lambda old: old["cases"][0]["settings"].update(backend="openvino"), "backend was openvino, is onnxruntime"),
        (lambda old: old["cases"][0]["settings"].update(memory=7), "memory was 7, is 3"),
        (lambda old: old["cases"][0]["settings"].update(threads=64), "threads was 64"),
        (lambda old: old["cases"][0]["settings"].update(clip="0" * 64), r"clip was 000000000000\.\.\., is"),
        (lambda old: old["cases"].append(old["cases"][0]), "holds 2 cases, this run 1"),
        (lambda old: old.pop("environment"), "environment: Field required"),
    ],
)
def test_another_machine_or_setting_is_refused_before_anything_runs(tiny_bundle, clip, tmp_path, change, complaint):
    once = BenchRequest(bundles=(str(tiny_bundle.folder),), source=clip, periods=1)
    path, out = tmp_path / "old.json", tmp_path / "new.json"
    command = [sys.executable, "-m", "jointrt.cli", "bench", "--bundle", str(tiny_bundle.folder)]
    old = _old(once)
    change(old)
    path.write_text(json.dumps(old))
    done = subprocess.run(
        [*command, "--source", str(clip), "--against", str(path), "--json", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert re.search(complaint, done.stderr)
    assert not out.exists()


_KEPT = {}


def _old(request):
    if not _KEPT:
        _KEPT.update(ReportFile.of(bench(request)).model_dump(mode="json"))
    return json.loads(json.dumps(_KEPT))


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "old.json"
    for content in ("[]", "{", '{"cases": 1}'):
        path.write_text(content)
        with pytest.raises(SettingsError, match=r"old\.json: .* --json"):
            ReportFile.read(path)
    with pytest.raises(SettingsError, match="cannot be read"):
        ReportFile.read(tmp_path / "none.json")


def test_the_bundle_may_differ_and_is_told_apart(report):
    setup = report.cases[0].setup
    other = dataclasses.replace(setup, fingerprint="f" * 64)
    assert settings_hash(setup, report.clip) == settings_hash(other, report.clip)
    assert case_names([setup, other]) == [f"tiny {setup.fingerprint[:8]}", "tiny ffffffff"]


@pytest.mark.parametrize("objects", [1, 2, 3, 8])
def test_a_mask_is_cut_into_as_many_objects_as_asked_for(objects):
    shown = BenchClip.read(CLIP, frames=1)
    labels = shown.mask(objects)
    ids, pixels = np.unique(labels[labels > 0], return_counts=True)
    assert len(ids) == objects
    if objects == 1:
        assert np.array_equal(labels > 0, shown.labels == 2)
    else:
        assert np.array_equal(labels > 0, shown.labels > 0)
        assert pixels.max() <= max(np.count_nonzero(shown.labels == i) for i in (1, 2))
    if objects == 3:
        halves = np.sort(pixels)
        assert sum(a + 1 >= b for a, b in itertools.pairwise(halves)) >= 1


def test_objects_without_pixels_are_refused(clip):
    shown = BenchClip.read(clip)
    for objects, message in ((0, "objects is 0"), (255, "no room for more objects")):
        with pytest.raises(SettingsError, match=message):
            shown.mask(objects)
    with pytest.raises(MaskError, match="expected a mask of"):
        BenchClip.read(clip, CLIP.with_suffix(".png"))


def test_whole_clips_give_the_masks_of_a_plain_loop(tiny_bundle, clip, tmp_path, report):
    segmenter, source = Segmenter.load(tiny_bundle.folder, threads=1), open_source(clip)
    labels = BenchClip.read(clip).mask(2)
    result = run_clips(segmenter, report.cases[0].setup, source, labels, 2, tmp_path)
    assert (result.clips, result.frames) == (2, 12)
    assert set(result.threads) == {"decode", "segment", "write"}
    for occupation in result.threads.values():
        assert 0 < occupation.busy <= result.seconds
        assert occupation.busy + occupation.waiting <= result.seconds
    assert result.bottleneck in result.threads
    for number in range(2):
        segmenter.reset()
        for frame in source.frames():
            expected = segmenter.step(frame.image, labels if frame.index == 0 else None)
            assert np.array_equal(read_label_map(tmp_path / f"{number}-{frame.name}.png"), expected)


@pytest.mark.parametrize("text", ["", "1,", "x", "1.5", "-2", "1;2"])
def test_lists_that_are_none_are_refused(text):
    with pytest.raises(SettingsError, match="separated by commas"):
        whole_numbers("memory", text)
    assert whole_numbers("memory", "1, 5,5,20") == (1, 5, 20)


def test_other_crops_need_weights(tiny_bundle, clip, tmp_path):
    request = BenchRequest(
        bundles=(str(tiny_bundle.folder),), crops=((64, 96),), source=clip, weights=tmp_path / "w.safetensors"
    )
    with pytest.raises(BundleError, match=r"w\.safetensors is not there.*--weights"):
        bench(request)


def test_the_shipped_bundle(tmp_path):
    """The command as the README has it, briefly."""
    out, plots = tmp_path / "figures.json", tmp_path / "plots"
    command = [sys.executable, "-m", "jointrt.cli", "bench", "--memory", "2", "--periods", "3"]
    written = ["--json", str(out), "--plots", str(plots), "--html", str(tmp_path / "page.html")]
    done = subprocess.run([*command, *written], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {"memory_update", INDUCTION} <= set(re.findall(r"\w+", done.stdout))
    assert {"amortised_frame_ms", "trunk_ms"} <= set(json.loads(out.read_text()))
    assert {p.name for p in plots.iterdir()} == {"stages.png", "frames.png"}
    assert Path(tmp_path / "page.html").stat().st_size > 10_000


def test_outputs_that_cannot_be_written_are_refused_at_once(tmp_path):
    command = [sys.executable, "-m", "jointrt.cli", "bench", "--json", str(tmp_path / "no" / "f.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "cannot be written" in done.stderr
