import cv2
import numpy as np
import pytest
from jointrt.benchmarks.accuracy.compare import CompareRequest, compare, paired_bootstrap
from jointrt.errors import SettingsError
from jointrt.export.parity.graphs import failures, worst
from jointrt.runtime.cpu.openvino_engine import computes_bf16
from jointrt.runtime.manifest import ClosedLoop, Parity
from jointrt.runtime.video.masks import write_label_map


@pytest.fixture
def dataset(tmp_path, disc):
    for name, first in (("a", 0), ("b", 7)):
        images, annotations = tmp_path / "JPEGImages/480p" / name, tmp_path / "Annotations/480p" / name
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for t in range(4):
            frame, mask = disc(first + t)
            cv2.imwrite(str(images / f"{t:05d}.jpg"), frame[..., ::-1])
            write_label_map(annotations / f"{t:05d}.png", mask)
    return tmp_path


def test_a_bundle_agrees_with_its_network_and_a_tight_floor_fails(tiny_bundle, dataset, display):
    curve = dataset / "curve.png"
    request = {"bundle": str(tiny_bundle.folder), "root": dataset, "curve": curve}
    found = compare(CompareRequest(**request), display)
    assert not found.failures
    assert {g.graph for g in found.graphs} == set(tiny_bundle.manifest.graphs)
    assert display.done == display.total == 8
    assert found.gain.mean == pytest.approx(0, abs=1e-3)
    assert all(len(clip.iou) == 3 and clip.tested is not None for clip in found.clips)
    assert cv2.imread(str(curve)).shape[2] == 3
    failed = compare(CompareRequest(**request, max_error=1e-12), display).failures
    assert any(line.startswith("backbone") for line in failed)


@pytest.mark.usefixtures("needs_openvino")
def test_a_backend_is_tested_and_judged_by_its_precision(tiny_bundle, dataset, display):
    """fp32 keeps the graphs' tolerance, bf16 has none by default and misses it by far."""
    both = {"bundle": str(tiny_bundle.folder), "baseline": str(tiny_bundle.folder), "root": dataset, "frames": 3}
    exact = compare(CompareRequest(**both, backend="openvino"), display)
    assert not exact.failures
    assert 0 < max(g.rel_l2 for g in exact.graphs) < 1e-4
    if computes_bf16():
        rounded = compare(CompareRequest(**both, backend="openvino:bf16"), display)
        assert max(g.rel_l2 for g in rounded.graphs) > 1e-3
        assert not any("relative L2" in line for line in rounded.failures)


def test_a_number_that_is_none_is_the_worst():
    """Whichever comes first."""
    for errors in ([(0.0, 0.0, 1.0), (np.nan,) * 3], [(np.nan,) * 3, (0.0, 0.0, 1.0)]):
        found = worst("a", errors)
        assert np.isnan([found.max_abs, found.rel_l2, found.cosine]).all()
        assert failures(Parity(graphs=(found,), closed_loop=ClosedLoop(frames=1, mean_iou=1.0, min_iou=1.0)))


def test_sequences_without_a_data_set_are_refused(display):
    with pytest.raises(SettingsError, match="--data"):
        compare(CompareRequest(bundle="lite", sequences=("a",)), display)


def test_the_interval_covers_what_the_normal_theory_says():
    values = np.random.default_rng(3).normal(0.1, 0.02, 400)
    found = paired_bootstrap(values.tolist())
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)
