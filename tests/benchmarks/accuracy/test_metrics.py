"""J, F and their statistics against figures of the official DAVIS tool."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from jointrt.benchmarks.accuracy.metrics import boundary_accuracy, region_similarity, statistics

DATA = Path(__file__).parents[2] / "data" / "davis_metric"
OFFICIAL = json.loads((DATA / "official.json").read_text())
SERIES = {len(series["values"]): series for series in OFFICIAL["statistics"]}


@pytest.fixture(scope="module")
def masks():
    with np.load(DATA / "masks.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("number", range(len(OFFICIAL["pairs"])), ids=lambda n: OFFICIAL["pairs"][n]["name"])
def test_pair_equals_official_tool(masks, number):
    pair = OFFICIAL["pairs"][number]
    height, width = pair["shape"]
    truth, result = (
        np.unpackbits(masks[f"{kind}{number:02d}"])[: height * width].reshape(height, width) for kind in ("gt", "pred")
    )
    assert region_similarity(truth, result) == pytest.approx(pair["J"], abs=1e-9)
    assert boundary_accuracy(truth, result) == pytest.approx(pair["F"], abs=1e-6)


@pytest.mark.parametrize("length", [5, 37, 80])
def test_statistics_equal_official_tool(length):
    series = SERIES[length]
    assert statistics(series["values"]) == pytest.approx(series["mean_recall_decay"], abs=1e-12)


def test_official_decay_of_300_frames_is_an_8_bit_slip():
    """The tool's figure follows from cutting the quarters' ends, frames 0, 75, 150, 224 and 299, to 8 bits."""
    series = SERIES[300]
    values = np.array(series["values"])
    wrapped = np.array([0, 75, 150, 224, 299]).astype(np.uint8)
    last_quarter = values[wrapped[3] : wrapped[4] + 1]
    assert len(last_quarter) == 0
    assert math.isnan(series["mean_recall_decay"][2])


def test_decay_of_300_frames_is_taken_from_the_true_quarters():
    series = SERIES[300]
    values = series["values"]
    mean, recall, decay = statistics(values)
    assert (mean, recall) == pytest.approx(series["mean_recall_decay"][:2], abs=1e-12)
    assert decay == pytest.approx(math.fsum(values[:76]) / 76 - math.fsum(values[224:]) / 76, abs=1e-12)
