"""Every metric against values computed by hand."""

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


def test_sets_by_hand() -> None:
    """Micro F1 counts decisions, macro F1 labels, accuracy rows that are all right."""
    truth = [{0, 1}, {2}, set[int](), {0}]
    said = [{0}, {2, 1}, set[int](), {0}]
    # label 0: 2 hits; label 1: 0 hits, 2 misses; label 2: 1 hit; label 3: never
    measured = scores.measure_sets(truth, said, 4)
    assert measured["f1"] == 2 * 3 / (2 * 3 + 2)
    assert measured["macro_f1"] == (1 + 0 + 1 + 0) / 4
    assert measured["accuracy"] == 2 / 4


def test_values_by_hand() -> None:
    """Pearson and Spearman of a small table, ties sharing a rank; mean absolute error."""
    measured = scores.measure_values([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 10.0])
    # deviations: truth -1.5 -0.5 0.5 1.5; said -2.75 -1.75 -1.75 6.25
    assert measured["pearson"] == pytest.approx(13.5 / math.sqrt(5 * 52.75))
    # ranks of said: 1, 2.5, 2.5, 4
    assert measured["spearman"] == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    assert measured["mae"] == 7 / 4


@pytest.mark.parametrize("said", [[math.nan, 1.0, 2.0], [math.inf, -math.inf, 1.0]])
def test_predictions_that_are_no_numbers(said: list[float]) -> None:
    """A model that diverged is infinitely wrong, and never the best epoch."""
    measured = scores.measure_values([1.0, 2.0, 3.0], said)
    assert measured == {"pearson": 0.0, "spearman": 0.0, "mae": math.inf}


@pytest.mark.parametrize("said", [[2.0, 2.0, 2.0], [-1e38, -1e38, -1e38]])
def test_a_constant_prediction_has_no_correlation(said: list[float]) -> None:
    """Predicting one number for all correlates with nothing, and is no division by zero."""
    measured = scores.measure_values([1.0, 2.0, 3.0], said)
    assert measured["pearson"] == measured["spearman"] == 0.0


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-a I-a O B-b", {(0, 2, "a"), (3, 4, "b")}),
        ("B-a B-a I-a", {(0, 1, "a"), (1, 3, "a")}),
        ("B-a I-b I-b", {(0, 1, "a"), (1, 3, "b")}),
        ("O I-a I-a O", {(1, 3, "a")}),
        ("B I O B", {(0, 2, ""), (3, 4, "")}),
        ("B-a-b I-a-b", {(0, 2, "a-b")}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_entities_of_iob2(tags: str, found: set[scores.Entity]) -> None:
    """B begins, I goes on with its own type only, and a stray I begins as well."""
    assert scores.entities(tags.split()) == found


def test_tags_by_hand() -> None:
    """An entity with a wrong type, a cut one and an invented one are all wrong."""
    truth = [["B-a", "I-a", "O", "B-b", "O"], ["O", "O", "B-a"]]
    said = [["B-a", "I-a", "O", "B-a", "O"], ["O", "B-b", "B-a"]]
    measured = scores.measure_tags(truth, said, iob2=True)
    # 3 true entities, 4 said, 2 right; 6 of 8 words
    assert measured == {"f1": 4 / 7, "precision": 2 / 4, "recall": 2 / 3, "accuracy": 6 / 8}
    cut = scores.measure_tags([["B-a", "I-a"]], [["B-a", "O"]], iob2=True)
    assert cut == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 0.5}


def test_tags_that_are_not_iob2_have_accuracy_alone() -> None:
    """Parts of speech have no entities; sentences without any have F1 0."""
    assert scores.measure_tags([["NN", "VB"]], [["NN", "NN"]], iob2=False) == {"accuracy": 0.5}
    assert scores.measure_tags([["O"]], [["O"]], iob2=True)["f1"] == 0.0
    assert scores.is_iob2(["O", "B-x", "I-x", "B", "I"])
    assert not scores.is_iob2(["O", "B-x", "NN"])
    assert not scores.is_iob2(["O", "L-x"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_bounds_and_perfection(pairs: list[tuple[int, int]]) -> None:
    """All metrics keep their bounds, and a perfect answer is 1 unless it is constant."""
    truth, said = [t for t, _ in pairs], [p for _, p in pairs]
    measured = scores.measure(truth, said, 5)
    assert 0 <= measured["accuracy"] <= 1
    assert 0 <= measured["f1"] <= 1
    assert -1 - 1e-12 <= measured["matthews"] <= 1 + 1e-12
    assert scores.matthews(truth, truth) == pytest.approx(float(len(set(truth)) > 1))
