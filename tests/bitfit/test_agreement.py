"""Two sets of logits beside each other, against values computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertd.bitfit import agreement, problems

PLAIN = problems.Rule()
BY_NAME = problems.BY_NAME
AB = ("a", "b")


def rows(*logits: list[float]) -> list[problems.Floats]:
    """One row of logits for each text."""
    return [np.array([row], np.float32) for row in logits]


def compare(
    problem: str, before: list[problems.Floats], after: list[problems.Floats]
) -> agreement.Agreement:
    """A comparison of two labels, `a` and `b`, without temperature."""
    return agreement.compare(BY_NAME[problem], AB, PLAIN, before, after)


def test_decisions_and_drift_by_hand() -> None:
    """Of three rows one flips, which was unsure; drift is over all six logits (F3)."""
    before = rows([2, 0], [0, 3], [1, 1.01])  # the last: probabilities 0.4975 and 0.5025
    after = rows([2.5, 0], [0, 3], [1.5, 1.01])
    found = compare("single_label", before, after)
    assert (found.decisions, found.equal, found.sure, found.sure_equal) == (3, 2, 2, 2)
    assert found.share == 2 / 3
    assert found.sure_share == 1
    assert found.mean_drift == pytest.approx(1 / 6)
    assert found.max_drift == 0.5


def test_the_margin_is_that_of_served_probabilities() -> None:
    """A temperature that flattens the scores makes a decision unsure, and changes none."""
    before, after = rows([0.1, 0.0]), rows([0.0, 0.1])
    sharp = agreement.compare(BY_NAME["single_label"], AB, PLAIN, before, after)
    flat = agreement.compare(
        BY_NAME["single_label"], AB, problems.Rule(temperature=10), before, after
    )
    assert (sharp.sure, sharp.equal) == (1, 0)
    assert (flat.sure, flat.equal) == (0, 0)


def test_each_label_of_many_is_a_decision() -> None:
    """With thresholds, every yes or no counts, and its margin is the way to the threshold."""
    rule = problems.Rule(thresholds={"a": 0.9})
    before, after = rows([1.0, 1.0]), rows([3.0, 1.0])  # a: 0.73 below 0.9, then 0.95
    found = agreement.compare(BY_NAME["multi_label"], AB, rule, before, after)
    assert (found.decisions, found.equal, found.sure) == (2, 1, 2)


def test_words_without_a_token_count_for_nothing() -> None:
    """A tagged word that was cut off has no logits, so there is nothing to compare."""
    gone = [math.nan, math.nan]
    before = [np.array([[2, 0], gone, [0, 2]], np.float32)]
    after = [np.array([[2, 0], gone, [2, 0]], np.float32)]
    found = compare("token", before, after)
    assert (found.decisions, found.equal, found.logits) == (2, 1, 4)


def test_a_regression_decides_nothing() -> None:
    """Numbers drift; no share of them agrees."""
    found = agreement.compare(
        BY_NAME["regression"], ("value",), PLAIN, rows([1.0], [2.0]), rows([1.5], [2.0])
    )
    assert (found.decisions, found.share) == (0, 1.0)
    assert found.mean_drift == 0.25


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_logits_that_are_no_numbers_agree_with_nothing(broken: float) -> None:
    """A precision that overflows is told as such, even where the best class is the same."""
    found = compare("single_label", rows([2, 0]), rows([2, broken]))
    assert (found.equal, found.max_drift, found.mean_drift) == (0, math.inf, math.inf)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "token"])
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_logits_that_were_no_numbers_before_are_not_hidden(problem: str, broken: float) -> None:
    """A text whose logits broke on the first side, or on both, counts against the agreement."""
    before, after = rows([broken, 1], [2, 0]), rows([2, 0], [2, 0])
    assert compare(problem, before, after).share == 0.5
    assert compare(problem, before, before).share == 0.5
    assert compare(problem, before, after).max_drift == math.inf


def test_sides_of_other_shapes_are_refused() -> None:
    """A row that one side lacks is an error and never a number."""
    with pytest.raises(ValueError, match="the same rows"):
        compare("single_label", rows([1, 0], [0, 1]), rows([1, 0]))


def test_nothing_agrees_with_nothing() -> None:
    """No rows is no disagreement, and no division by zero."""
    found = compare("single_label", [], [])
    assert (found.share, found.sure_share, found.mean_drift, found.max_drift) == (1, 1, 0, 0)


LOGITS = st.lists(
    st.tuples(st.floats(-9, 9, width=32), st.floats(-9, 9, width=32)), min_size=1, max_size=9
)


@given(one=LOGITS, other=LOGITS)
def test_parts_pool_to_the_whole(
    one: list[tuple[float, float]], other: list[tuple[float, float]]
) -> None:
    """Pooling two comparisons is comparing their rows at once, and rows agree with themselves."""
    parts = [rows(*map(list, part)) for part in (one, other)]
    noise = [[row + np.float32(0.25) * np.sign(row) for row in part] for part in parts]
    pooled = agreement.pooled(
        compare("single_label", *pair) for pair in zip(parts, noise, strict=True)
    )
    whole = compare("single_label", parts[0] + parts[1], noise[0] + noise[1])
    assert pooled.total_drift == pytest.approx(whole.total_drift)
    assert (pooled.decisions, pooled.equal, pooled.sure, pooled.sure_equal, pooled.max_drift) == (
        *(whole.decisions, whole.equal, whole.sure, whole.sure_equal, whole.max_drift),
    )
    same = compare("single_label", parts[0], parts[0])
    assert (same.share, same.max_drift) == (1.0, 0.0)
