"""Logits become scores and labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from bertd import errors
from bertd.serving import answers

NAMES = ("a", "b", "c")


def logits(*rows: list[float]) -> answers.Floats:
    """Rows as an array."""
    return np.array(rows, np.float32)


def decided(row: list[float], *, problem: str = "single_label", **thresholds: float) -> list[str]:
    """The decision on one row of scores."""
    return answers.decide([row], problem=problem, label_names=NAMES, thresholds=thresholds)[0]


def test_softmax_scores_sum_to_one():
    """Single-label scores are the softmax of the logits."""
    got = answers.scores(logits([0, np.log(2), 0]), problem="single_label", temperature=1)
    np.testing.assert_allclose([[0.25, 0.5, 0.25]], got, atol=1e-7)


def test_sigmoid_scores_are_independent():
    """Multi-label scores are sigmoids, each of its own logit."""
    got = answers.scores(logits([0, np.log(3), -np.log(3)]), problem="multi_label", temperature=1)
    np.testing.assert_allclose([[0.5, 0.75, 0.25]], got, atol=1e-7)


@pytest.mark.parametrize("problem", ["single_label", "multi_label", "token"])
@given(
    values=npst.arrays(
        np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    temperature=st.floats(0.01, 100),
)
def test_scores_are_probabilities_whatever_the_logits(problem, values, temperature):
    """No finite logit overflows, whatever the temperature."""
    with np.errstate(all="raise", under="ignore"):
        got = np.array(answers.scores(values, problem=problem, temperature=temperature))
    assert ((got >= 0) & (got <= 1)).all()


def test_temperature_divides_the_logits():
    """A temperature above 1 makes scores less sure (calibration)."""
    plain = answers.scores(logits([2, 0]), problem="single_label", temperature=1)
    warm = answers.scores(logits([4, 0]), problem="single_label", temperature=2)
    np.testing.assert_allclose(plain, warm)


def test_regression_is_the_value_itself():
    """A regression's prediction is neither squeezed nor scaled."""
    got = answers.scores(logits([-7.5]), problem="regression", temperature=3)
    assert got == [[-7.5]]


def test_the_best_label_is_decided():
    """Single-label decides for exactly one label."""
    assert decided([0.2, 0.5, 0.3]) == ["b"]


def test_a_tie_is_decided_once():
    """Of equal scores only the first label is decided."""
    assert decided([0.4, 0.4, 0.2]) == ["a"]


def test_the_best_label_below_its_threshold_decides_nothing():
    """No second-best label takes the place of one that missed its threshold."""
    assert decided([0.2, 0.5, 0.3], b=0.6) == []


def test_a_threshold_of_another_label_changes_nothing():
    """Only the best label's own threshold counts in single-label."""
    assert decided([0.2, 0.5, 0.3], a=0.9, c=0.0) == ["b"]


def test_a_score_at_its_threshold_is_decided():
    """A threshold is the least score that decides."""
    assert decided([0.2, 0.5, 0.3], b=0.5) == ["b"]


def test_many_labels_or_none_are_decided_in_multi_label():
    """Multi-label decides by each label's threshold, one half by default."""
    assert decided([0.5, 0.49, 0.9], problem="multi_label") == ["a", "c"]
    assert decided([0.5, 0.49, 0.9], problem="multi_label", a=0.6, b=0.4) == ["b", "c"]
    assert decided([0.1, 0.1, 0.1], problem="multi_label") == []


def test_regression_decides_nothing():
    """A number is no label."""
    assert decided([3.0, 1.0, 2.0], problem="regression") == []


def test_no_wanted_labels_mean_all():
    """An empty selection returns everything."""
    assert answers.columns(NAMES, []) == [0, 1, 2]


def test_wanted_labels_come_in_label_order_and_once():
    """The adapter's order wins over the caller's, and repetition adds nothing."""
    assert answers.columns(NAMES, ["c", "a", "c"]) == [0, 2]


def test_an_unknown_label_is_named_with_the_nearest_one():
    """A misspelt label is answered with the right one (B9)."""
    with pytest.raises(errors.NotFound, match=r"no label 'posittive'.*did you mean 'positive'\?"):
        answers.columns(["negative", "positive"], ["posittive"])


def test_among_long_lists_no_label_is_suggested():
    """A slip of the caller never costs the event loop a search; the first labels are named."""
    names = [f"{number:05}{'x' * 60}" for number in range(5000)]
    with pytest.raises(errors.NotFound, match=r"the labels are '00000x+', .*, \.\.\.") as caught:
        answers.columns(names, [names[7] + "y"])
    assert "did you mean" not in caught.value.hint


def test_an_unlike_label_is_answered_with_the_list():
    """Where nothing is near, the labels are listed, not all 100 of them."""
    names = [f"class-{i}" for i in range(100)]
    with pytest.raises(errors.NotFound, match=r"the labels are 'class-0', .*'class-9', \.\.\."):
        answers.columns(names, ["zebra"])


def test_a_huge_unknown_label_is_not_echoed():
    """A megabyte of label costs neither time nor a megabyte of reply."""
    with pytest.raises(errors.NotFound) as caught:
        answers.columns(NAMES, ["x" * 1_000_000])
    assert len(str(caught.value)) < 300


def test_unit_vectors_have_length_one():
    """Normalised vectors have length 1, and keep their direction."""
    got = answers.unit(logits([3, 4], [0, -2]))
    np.testing.assert_allclose([[0.6, 0.8], [0, -1]], got, atol=1e-7)
    assert got.dtype == np.float32


def test_a_zero_vector_stays_zero():
    """Nothing is divided by nothing."""
    assert answers.unit(logits([0, 0])).tolist() == [[0, 0]]


def test_results_are_laid_end_to_end():
    """Vectors and matrices of one call become one array, in order."""
    parts = [np.ones(2, np.float32), np.full((1, 2), 2, np.float32)]
    assert answers.matrix(parts, columns=2, counts=[1, 1]).tolist() == [[1, 1], [2, 2]]


def test_a_result_of_the_wrong_size_is_a_bug():
    """A worker that answers in another shape is caught before anybody reads labels from it."""
    with pytest.raises(errors.Bug, match="result 1 must have 1 x 2 values, and has 3"):
        answers.matrix([np.zeros(2), np.zeros(3)], columns=2, counts=[1, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_result_that_is_no_number_is_a_bug(bad):
    """NaN never becomes a confident label."""
    with pytest.raises(errors.Bug, match="not finite"):
        answers.matrix([logits([0, bad])], columns=2, counts=[1])
