import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from jointrt.benchmarks.bench import as_json, measure, write_json
from jointrt.benchmarks.trunk import without_outputs
from jointrt.runtime.errors import SettingsError


def test_the_trunk_is_what_the_onnx_library_extracts(tiny_bundle, tmp_path):
    source = tiny_bundle.path("backbone.onnx")
    layers = [f"layer{i}" for i in (1, 2, 3, 4)]
    extracted = tmp_path / "extracted.onnx"
    onnx.utils.extract_model(str(source), str(extracted), ["crop"], layers)
    cut = without_outputs(source.read_bytes(), {"x_tra", "x_ind"})
    ours, theirs = onnx.load_from_string(cut), onnx.load(str(extracted))
    assert [n.name for n in ours.graph.node] == [n.name for n in theirs.graph.node]
    crop = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 128)).astype(np.float32)
    results = [
        onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(layers, {"crop": crop})
        for model in (cut, str(extracted))
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_measurement_adds_up(tiny_bundle, tmp_path):
    result = measure(tiny_bundle.folder, periods=3, threads=1)
    assert len(result.frames) == 3 * 2
    assert len(result.stages["memory_update"]) == 3
    assert len(result.stages["backbone"]) == len(result.frames)
    assert sum(map(sum, result.stages.values())) <= sum(result.frames)
    ratio, low, high = result.ratio_interval()
    assert low <= high
    assert ratio == pytest.approx(np.mean(result.frames) / np.median(result.trunk))
    path = tmp_path / "bench.json"
    write_json([result], path)
    stored = json.loads(path.read_text())
    assert stored["amortised_frame_ms"] == pytest.approx(np.mean(result.frames))
    assert stored["trunk_ms"] == pytest.approx(np.median(result.trunk))
    assert stored == json.loads(json.dumps(as_json(result)))


def test_more_objects_than_the_mask_holds_are_refused(tiny_bundle):
    with pytest.raises(SettingsError, match="holds 2"):
        measure(tiny_bundle.folder, objects=3)


def test_the_command(tiny_bundle, tmp_path):
    path = tmp_path / "figures.json"
    command = [sys.executable, "-m", "jointrt.cli", "bench", "--bundle", str(tiny_bundle.folder), "--memory", "2"]
    done = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "memory_update" in done.stdout
    assert {"amortised_frame_ms", "trunk_ms"} <= set(json.loads(path.read_text()))
