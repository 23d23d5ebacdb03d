"""What is fitted on the validation rows when the weights are done: a temperature, and thresholds.

Temperature scaling is Guo et al. (2017), "On Calibration of Modern Neural Networks": one number
divides all logits and makes the true labels as likely as it can. It moves no decision of a
single-label or token head. Free of torch.

Shapes: N rows of logits (the words of all rows for `token`), C labels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertd.bitfit import problems

# Beyond these a validation set says no more than that the model is always right, or knows nothing.
LOWEST_TEMPERATURE = 0.25
HIGHEST_TEMPERATURE = 16.0
_STEPS = 50
_DIGITS = 4
_LEAST_LIKELY = 1e-300

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """The best temperature, and the mean negative log-likelihood of a row at 1 and at it."""

    value: float
    before: float
    after: float


def temperature(problem: str, logits_NC: Doubles, hot_NC: Doubles) -> Temperature:
    """The temperature that minimises the negative log-likelihood, rounded to four digits.

    `hot_NC` has 1 where a label holds. The likelihood is log-concave in b = 1 / temperature, for
    softmax and sigmoid alike, and its slope is the mean over rows of sum((p(b z) - hot) * z):
    halving the interval that holds the slope's sign change finds the one minimum.
    """
    low, high = math.log(1 / HIGHEST_TEMPERATURE), math.log(1 / LOWEST_TEMPERATURE)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        excess_NC = problems.probabilities(problem, math.exp(middle) * logits_NC) - hot_NC
        if float((excess_NC * logits_NC).sum()) < 0:
            low = middle
        else:
            high = middle
    value = round(math.exp(-(low + high) / 2), _DIGITS)
    before, after = (_loss(problem, logits_NC / t, hot_NC) for t in (1.0, value))
    return Temperature(value=value, before=before, after=after)


def thresholds(scores_NC: Doubles, hot_NC: Doubles, names: Sequence[str]) -> dict[str, float]:
    """For each label the threshold with the best F1, of several the one nearest to one half.

    Tried are one half and a limit between any two scores: never one that every row would reach. A
    label that never holds, or for which one half is as good as any, is left out.
    """
    found = {}
    for label, name in enumerate(names):
        limit = _threshold(scores_NC[:, label], hot_NC[:, label] > 0)
        if limit != problems.THRESHOLD:
            found[name] = limit
    return found


def hot(marks: Sequence[Sequence[int]], labels: int) -> Doubles:
    """1.0 where a label holds, else 0.0: [N, C]."""
    hot_NC = np.zeros((len(marks), labels))
    for row, classes in enumerate(marks):
        hot_NC[row, list(classes)] = 1.0
    return hot_NC


def _loss(problem: str, logits_NC: Doubles, hot_NC: Doubles) -> float:
    scores_NC = problems.probabilities(problem, logits_NC)
    likely_NC = hot_NC * np.log(np.maximum(scores_NC, _LEAST_LIKELY))
    if problem == problems.MultiLabel.name:
        likely_NC += (1 - hot_NC) * np.log(np.maximum(1 - scores_NC, _LEAST_LIKELY))
    return round(float(-likely_NC.sum(1).mean()), 6)


def _threshold(scores_N: Doubles, holds_N: NDArray[np.bool_]) -> float:
    ordered_n = np.unique(scores_N)
    between_n = np.round((ordered_n[1:] + ordered_n[:-1]) / 2, _DIGITS)
    limits_n = np.append(between_n, problems.THRESHOLD)
    # With scores in order, how many rows (and true rows) reach a limit is one search.
    all_n = len(scores_N) - np.searchsorted(np.sort(scores_N), limits_n, side="left")
    true_N = np.sort(scores_N[holds_N])
    hits_n = len(true_N) - np.searchsorted(true_N, limits_n, side="left")
    f1_n = 2 * hits_n / np.maximum(all_n + len(true_N), 1)
    best_n = limits_n[f1_n == f1_n.max()]
    return float(best_n[np.abs(best_n - problems.THRESHOLD).argmin()])
