import numpy as np
import pytest
from jointrt.benchmarks.speed.durations import Summary, drift, is_steady, ratio_interval
from scipy import stats


def test_a_summary_of_a_ramp():
    summary = Summary.of([float(v) for v in range(101, 0, -1)])
    assert (summary.calls, summary.mean, summary.min) == (101, 51, 1)
    assert (summary.p50, summary.p90, summary.p99) == (51, 91, 100)


def test_drift_is_of_the_outer_thirds():
    assert drift([1, 1, 7, 7, 2, 2]) == 2
    assert drift([4, 9]) == 9 / 4
    assert is_steady([1, 1.1])
    assert not is_steady([1, 1, 1.3])
    assert not is_steady([1.3, 1, 1])


def test_two_rounds_have_three_possible_draws():
    """Rounds of ratio 1 and 3: a quarter of all draws holds the first twice, a quarter the second."""
    ratio = ratio_interval(np.array([[1.0], [3.0]]), np.ones((2, 1)))
    assert (ratio.value, ratio.low, ratio.high) == (2, 1, 3)


def test_what_disturbs_both_sides_cancels():
    noise = np.random.default_rng(0).uniform(1, 9, (12, 1))
    ratio = ratio_interval(3 * noise * np.ones((1, 5)), noise)
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([3, 3, 3])


def test_the_interval_is_scipys():
    draw = np.random.default_rng(1)
    above, below = draw.uniform(4, 6, (30, 5)), draw.uniform(1, 2, (30, 3))
    ours = ratio_interval(above, below)
    theirs = stats.bootstrap(
        (above.mean(1), below.mean(1)),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=2,
    ).confidence_interval
    assert [ours.low, ours.high] == pytest.approx([theirs.low, theirs.high], abs=0.01)


def test_one_round_has_no_interval():
    assert ratio_interval(np.array([[2.0, 4.0]]), np.array([[1.5]])).low is None
