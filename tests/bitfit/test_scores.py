"""Accuracy, F1 and Matthews correlation against values computed by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.bitfit import scores

TRUTH = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
SAID = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]  # TP 3, FN 1, FP 1, TN 5


def test_two_classes_by_hand() -> None:
    """TP 3, FN 1, FP 1, TN 5 give accuracy 8/10, F1 6/8 and Matthews (15 - 1) / 24 (F3, F4)."""
    measured = scores.measure(TRUTH, SAID, 2)
    assert measured["accuracy"] == 0.8
    assert measured["f1"] == 0.75
    assert measured["matthews"] == pytest.approx(14 / 24, abs=1e-15)


def test_three_classes_by_hand() -> None:
    """F1 is the mean over the classes, and Matthews follows Gorodkin's formula."""
    truth, said = [0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0]
    assert scores.f1(truth, said, 3) == pytest.approx((2 / 4 + 4 / 5 + 2 / 3) / 3)
    # rows 6, right 4; true counts 2, 2, 2; said counts 2, 3, 1
    expected = (4 * 6 - (2 * 2 + 2 * 3 + 2 * 1)) / math.sqrt((36 - 12) * (36 - 14))
    assert scores.matthews(truth, said) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "said"),
    [([1, 0, 1], [1, 1, 1]), ([0, 0], [0, 1]), ([1], [1]), ([0, 0, 0], [0, 0, 0])],
)
def test_matthews_is_zero_where_a_side_is_constant(truth: list[int], said: list[int]) -> None:
    """A constant prediction, or a constant truth, has Matthews 0, not a division by zero (F3)."""
    assert scores.matthews(truth, said) == 0.0


def test_a_class_that_is_never_hit_has_f1_zero() -> None:
    """No true positive is F1 0, also where the class occurs on neither side."""
    assert scores.f1_of([0, 1], [1, 0], 1) == 0.0
    assert scores.f1_of([0, 0], [0, 0], 1) == 0.0
    assert scores.f1([0, 1], [0, 1], 4) == 0.5


@pytest.mark.parametrize(("truth", "said"), [([], []), ([1, 0], [1])])
def test_no_rows_or_unequal_sides_are_refused(truth: list[int], said: list[int]) -> None:
    """Nothing to measure, or a missing prediction, is an error and never a number."""
    with pytest.raises(ValueError, match="one prediction per row"):
        scores.measure(truth, said, 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_bounds_and_perfection(pairs: list[tuple[int, int]]) -> None:
    """All metrics keep their bounds, and a perfect answer is 1 unless it is constant."""
    truth, said = [t for t, _ in pairs], [p for _, p in pairs]
    measured = scores.measure(truth, said, 5)
    assert 0 <= measured["accuracy"] <= 1
    assert 0 <= measured["f1"] <= 1
    assert -1 - 1e-12 <= measured["matthews"] <= 1 + 1e-12
    assert scores.matthews(truth, truth) == pytest.approx(float(len(set(truth)) > 1))
