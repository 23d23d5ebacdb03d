"""How good predicted labels are: accuracy, F1 and Matthews correlation, as pure functions.

All take the true and the predicted class of every row as integers and return a float. Where a
formula would divide by zero its value is 0, as its authors and every common library have it.
"""

import math
from collections.abc import Sequence

METRICS = ("accuracy", "f1", "matthews")


def accuracy(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """The share of rows whose class is right, in [0, 1]."""
    _check(truth, predicted)
    return sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth)


def f1(truth: Sequence[int], predicted: Sequence[int], classes: int) -> float:
    """F1 of class 1 where there are two classes, else the unweighted mean over all of them."""
    _check(truth, predicted)
    if classes == 2:
        return f1_of(truth, predicted, 1)
    return sum(f1_of(truth, predicted, c) for c in range(classes)) / classes


def f1_of(truth: Sequence[int], predicted: Sequence[int], label: int) -> float:
    """2 TP / (2 TP + FP + FN) of one class."""
    pairs = list(zip(truth, predicted, strict=True))
    hits = sum(t == label == p for t, p in pairs)
    misses = sum((t == label) != (p == label) for t, p in pairs)
    return 2 * hits / (2 * hits + misses) if hits else 0.0


def matthews(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """Matthews correlation of any number of classes, in [-1, 1]; 0 where a side is constant.

    The multi-class form of Gorodkin (2004), "Comparing two K-category assignments by a K-category
    correlation coefficient"; with two classes it is Matthews' own (1975). Computed from whole
    numbers, so it is exact up to one rounding.
    """
    _check(truth, predicted)
    rows = len(truth)
    right = sum(t == p for t, p in zip(truth, predicted, strict=True))
    classes = set(truth) | set(predicted)
    true = {c: sum(t == c for t in truth) for c in classes}
    said = {c: sum(p == c for p in predicted) for c in classes}
    covariance = right * rows - sum(true[c] * said[c] for c in classes)
    spread_true = rows * rows - sum(n * n for n in true.values())
    spread_said = rows * rows - sum(n * n for n in said.values())
    if not spread_true or not spread_said:
        return 0.0
    return covariance / math.sqrt(spread_true * spread_said)


def measure(truth: Sequence[int], predicted: Sequence[int], classes: int) -> dict[str, float]:
    """Every metric of METRICS by name."""
    return {
        "accuracy": accuracy(truth, predicted),
        "f1": f1(truth, predicted, classes),
        "matthews": matthews(truth, predicted),
    }


def _check(truth: Sequence[int], predicted: Sequence[int]) -> None:
    if not truth or len(truth) != len(predicted):
        raise ValueError(f"needs one prediction per row: {len(truth)} rows, {len(predicted)} given")
