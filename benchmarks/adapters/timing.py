"""Interleaved timing, medians, and intervals of paired ratios."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARM_UP_ROUNDS = 2
RESAMPLES = 2000

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median of paired ratios, and the 95 % interval of that median (bootstrap)."""

    median: float
    low: float
    high: float


def interleaved(
    rounds: int,
    prepare: Callable[[np.random.Generator], Mapping[str, Callable[[], None]]],
) -> dict[str, Seconds]:
    """Seconds of each contender in each round; order is drawn anew every round."""
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {}
    for number in range(rounds + WARM_UP_ROUNDS):
        contenders = prepare(rng)
        for name in rng.permutation(list(contenders)):
            began = time.perf_counter()
            contenders[name]()
            if number >= WARM_UP_ROUNDS:
                times.setdefault(str(name), []).append(time.perf_counter() - began)
    return {name: np.array(found) for name, found in times.items()}


def ratio(above: Seconds, below: Seconds) -> Ratio:
    """How `above` compares to `below`, round by round."""
    pairs = above / below
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(pairs, (RESAMPLES, len(pairs))), axis=1)
    low, high = np.percentile(medians, (2.5, 97.5))
    return Ratio(median=float(np.median(pairs)), low=float(low), high=float(high))
