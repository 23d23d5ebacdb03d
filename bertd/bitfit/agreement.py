"""How far two sets of logits for the same rows are apart: in what they decide, and in numbers.

A decision is the best class of a row (`single_label`) or of a word (`token`), or each yes or no of
`multi_label`; a `regression` decides nothing, so its logits alone are compared.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bertd.bitfit import problems

SURE_MARGIN: Final = 0.02
NOTHING: Final = -1  # what a row of logits decides that are no numbers

Decisions = NDArray[np.int64]
Margins = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Counts, so that several of them pool.

    A decision is sure where its margin before exceeds `SURE_MARGIN`: between the two best
    probabilities, or for `multi_label` between a score and its threshold.
    """

    decisions: int
    equal: int
    sure: int
    sure_equal: int
    logits: int
    total_drift: float
    max_drift: float

    @property
    def share(self) -> float:
        """Decisions that both sides share, in [0, 1]; 1 where nothing is decided."""
        return self.equal / self.decisions if self.decisions else 1.0

    @property
    def sure_share(self) -> float:
        """As `share`, over the decisions that were sure before."""
        return self.sure_equal / self.sure if self.sure else 1.0

    @property
    def mean_drift(self) -> float:
        """Mean absolute difference of a logit."""
        return self.total_drift / self.logits if self.logits else 0.0


def compare(
    problem: problems.Problem[Any],
    names: Sequence[str],
    rule: problems.Rule,
    before: Sequence[problems.Floats],
    after: Sequence[problems.Floats],
) -> Agreement:
    """Compare logits [n, C] of each row, raw, as they are before the temperature.

    Words without a token, which are NaN on both sides, are left out. Other logits that are no
    numbers, on either side, agree with nothing and have drifted infinitely far.

    Raises:
        ValueError: the two sides have other shapes.
    """
    shapes = [[row_nC.shape for row_nC in side] for side in (before, after)]
    if shapes[0] != shapes[1]:
        raise ValueError("both sides must hold logits of the same rows")
    before_mC, after_mC = (np.concatenate([np.empty((0, len(names))), *s]) for s in (before, after))
    if problem.name == problems.Token.name:
        there_m = ~(np.isnan(before_mC) & np.isnan(after_mC)).all(axis=1)
        before_mC, after_mC = before_mC[there_m], after_mC[there_m]
    decided, margins = _decide(problem.name, names, rule, before_mC)
    again, _ = _decide(problem.name, names, rule, after_mC)
    equal, sure = (decided == again) & (again != NOTHING), margins > SURE_MARGIN
    with np.errstate(invalid="ignore"):  # infinity less itself
        drift = np.nan_to_num(np.abs(after_mC - before_mC), nan=math.inf, posinf=math.inf)
    return Agreement(
        decisions=len(decided),
        equal=int(equal.sum()),
        sure=int(sure.sum()),
        sure_equal=int((equal & sure).sum()),
        logits=drift.size,
        total_drift=float(drift.sum()),
        max_drift=float(drift.max(initial=0.0)),
    )


def pooled(found: Iterable[Agreement]) -> Agreement:
    """All decisions and all logits as one set."""
    parts = list(found)
    return Agreement(
        decisions=sum(part.decisions for part in parts),
        equal=sum(part.equal for part in parts),
        sure=sum(part.sure for part in parts),
        sure_equal=sum(part.sure_equal for part in parts),
        logits=sum(part.logits for part in parts),
        total_drift=math.fsum(part.total_drift for part in parts),
        max_drift=max((part.max_drift for part in parts), default=0.0),
    )


def _decide(
    problem: str, names: Sequence[str], rule: problems.Rule, logits_mC: problems.Floats
) -> tuple[Decisions, Margins]:
    if problem == problems.Regression.name or not len(logits_mC):
        return np.empty(0, np.int64), np.empty(0)
    finite_m = np.asarray(np.isfinite(logits_mC).all(axis=1))
    scores_mC = problems.probabilities(
        problem, np.where(finite_m[:, None], logits_mC, 0.0) / rule.temperature
    )
    if problem == problems.MultiLabel.name:
        limits_C = np.array([rule.thresholds.get(name, problems.THRESHOLD) for name in names])
        decided_mC = np.where(finite_m[:, None], scores_mC >= limits_C, NOTHING)
        return decided_mC.astype(np.int64).ravel(), np.abs(scores_mC - limits_C).ravel()
    decided_m = np.where(finite_m, scores_mC.argmax(axis=1), NOTHING)
    best_m2 = np.sort(scores_mC, axis=1)[:, -2:]
    return decided_m, best_m2[:, -1] - best_m2[:, 0]
