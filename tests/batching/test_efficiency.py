"""How much of the machine's peak is used: what is counted, and what it is divided by."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.batching import efficiency

PEAK_PER_S = 1000.0
FACTS = {"precision": "int8", "peakOperationsPerSecond": {"fp32": 10, "int8": 40}}


def test_a_lane_at_its_peak() -> None:
    """A batch that takes exactly what the peak allows is 1; one on two threads half of that."""
    assert efficiency.Efficiency().learn(PEAK_PER_S, 1200, 1.2, 1) == pytest.approx(1.0)
    assert efficiency.Efficiency().learn(PEAK_PER_S, 1200, 1.2, 2) == pytest.approx(0.5)


def test_recent_work_counts_more() -> None:
    """After a half-life of busy time what was before weighs half; idle time changes nothing."""
    measured, seconds = efficiency.Efficiency(), efficiency.HALF_LIFE_BUSY_S
    measured.learn(PEAK_PER_S, 0, seconds, 1)
    found = measured.learn(PEAK_PER_S, PEAK_PER_S * seconds, seconds, 1)
    assert found == pytest.approx(1 / 1.5)


def test_a_batch_above_the_measured_peak_corrects_it() -> None:
    """A peak that was measured beside a busy neighbour reads low: no share is ever above 1."""
    measured = efficiency.Efficiency()
    assert measured.learn(PEAK_PER_S, 2 * PEAK_PER_S, 1.0, 1) == pytest.approx(1.0)
    assert measured.learn(PEAK_PER_S, 0, 1.0, 1) < 0.5


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_time_divides_by_nothing(seconds: float) -> None:
    """A clock that stands still or goes back gives 0, not an error, and teaches nothing."""
    measured = efficiency.Efficiency()
    assert measured.learn(PEAK_PER_S, 1000, seconds, 1) == 0.0
    assert measured.learn(PEAK_PER_S, 500, 1.0, 1) == pytest.approx(0.5)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(1e-6, 100), st.integers(1, 8)),
        min_size=1,
    )
)
def test_the_share_lies_between_the_best_and_the_worst(
    batches: list[tuple[float, float, int]],
) -> None:
    """However batches mix, the figure is an average of theirs, over the best rate there was."""
    measured = efficiency.Efficiency()
    rates, found = [], 0.0
    for operations, seconds, threads in batches:
        found = measured.learn(PEAK_PER_S, operations, seconds, threads)
        rates.append(operations / (seconds * threads))
    peak_per_s = max(PEAK_PER_S, *rates)
    assert min(rates) / peak_per_s * (1 - 1e-6) <= found
    assert found <= max(rates) / peak_per_s * (1 + 1e-6)
    assert found <= 1.0
    assert math.isfinite(found)


def test_the_peak_is_that_of_the_precision() -> None:
    """int8 is measured against int8."""
    assert efficiency.peak_per_s(FACTS) == 40


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"precision": None},
        {"peakOperationsPerSecond": {"int8": 0}},
        {"peakOperationsPerSecond": {"int8": "40"}},
        {"peakOperationsPerSecond": None},
    ],
)
def test_without_its_numbers_nothing_is_claimed(change: dict[str, object]) -> None:
    """A worker that measured nothing, or nothing of this precision, has no efficiency."""
    assert efficiency.peak_per_s(FACTS | change) == 0
    assert efficiency.peak_per_s({}) == 0
