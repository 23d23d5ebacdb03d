"""What training minimises, against formulas written out by hand."""

import math

import pytest
import torch

from bertd.bitfit import losses, problems

ALIKE = torch.ones(2)


def test_one_class_a_row_is_weighed_by_its_rarity() -> None:
    """A balance of 1 gives every class the same sum, and the mean weight of a row stays 1."""
    marks = [(0,)] * 6 + [(1,)] * 2
    assert losses.weights("single_label", marks, 2, 0.0) == [1.0, 1.0]
    assert losses.weights("single_label", marks, 2, 1.0) == pytest.approx([8 / 12, 8 / 4])
    half = losses.weights("token", marks, 2, 0.5)
    assert half[1] / half[0] == pytest.approx(math.sqrt(3))
    assert 6 * half[0] + 2 * half[1] == pytest.approx(8)


def test_several_labels_are_weighed_against_their_absence() -> None:
    """A label of 2 rows in 8 counts 6 / 2; one that never or always holds counts something."""
    marks = [(0,)] * 2 + [()] * 6
    assert losses.weights("multi_label", marks, 2, 1.0) == pytest.approx([3.0, 8.0])
    assert losses.weights("multi_label", marks, 2, 0.0) == [1.0, 1.0]
    assert losses.weights("multi_label", [(0,)] * 4, 1, 1.0) == [1.0]


@pytest.mark.parametrize("problem", ["single_label", "token"])
def test_a_class_without_rows_has_a_weight(problem: str) -> None:
    """A label that only the evaluation may use divides by nothing."""
    assert all(math.isfinite(w) for w in losses.weights(problem, [(0,)] * 3, 2, 1.0))
    assert losses.weights(problem, [], 2, 1.0) == [1.0, 1.0]


def test_tags_are_averaged_over_words_alone() -> None:
    """Padding, special tokens and the later parts of words are no part of the loss."""
    logits = torch.tensor([[[0.0, 0.0], [2.0, 0.0], [9.0, -9.0]]])
    labels = torch.tensor([[problems.IGNORED, 0, problems.IGNORED]])
    loss = losses.BY_NAME["token"](logits, labels, ALIKE)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-2)))
    nothing = torch.full((1, 3), problems.IGNORED)
    assert float(losses.BY_NAME["token"](logits, nothing, ALIKE)) == 0.0


def test_several_labels_are_judged_one_by_one() -> None:
    """The mean of binary cross entropies, that of a label that holds times its weight."""
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    weighed = losses.BY_NAME["multi_label"](logits, labels, torch.tensor([3.0, 1.0]))
    expected = (3 * math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert float(weighed) == pytest.approx(expected)


def test_a_row_of_one_class_counts_its_weight() -> None:
    """Cross entropy of each row times the weight of its class."""
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    loss = losses.BY_NAME["single_label"](logits, labels, torch.tensor([0.5, 1.5]))
    assert float(loss) == pytest.approx((0.5 * math.log(1 + math.exp(-2)) + 1.5 * math.log(2)) / 2)


def test_numbers_are_judged_by_squared_distance() -> None:
    """The mean of squares."""
    loss = losses.BY_NAME["regression"](
        torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [3.0]]), ALIKE
    )
    assert float(loss) == 0.5
