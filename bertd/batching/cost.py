"""What a batch costs, measured while it serves: seconds = a + b * sum(n) + c * sum(n^2).

The sums run over rows of n tokens. `a` is what a batch costs whatever it holds (launches, reading
weights, the sockets), so dividing seconds by tokens would make every backlog of short texts look
hopeless. `c` is attention; its share of a token's work follows from the encoder's shape, so that
only `a` and `b` have to be told apart.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# What a batch costs beside its tokens hardly changes, relative to them, and is told apart slowly;
# how fast the machine is changes with its load, and counts at once. Weights of a batch against the
# one after it:
SHAPE_DECAY = 0.999
SPEED_DECAY = 0.95
# A batch during which everything stood still says little about the next one.
OUTLIER = 4.0
# With batches of one size alone nothing tells `a` from `b`. Then trials do, or else half of the
# seconds are held to be `a`: a prior that counts as much as so large a spread of sizes would, and
# fades after some batches where it stands on nothing.
PRIOR_SPREAD = 0.1**2
FIXED_PRIOR = 0.5
PRIOR_BATCHES = 4.0
LEAST_SPREAD = 1e-6  # below it a spread is rounding
# Attention reaches half of the rate of the large products, measured on BERT-base in int8.
ATTENTION_SLOWNESS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Seconds of a batch, of each token and of each squared row length; nothing is below zero."""

    fixed_s: float = 0.0
    token_s: float = 0.0
    square_s: float = 0.0

    def row_s(self, tokens: int) -> float:
        """What a row of so many tokens adds to a batch."""
        return tokens * (self.token_s + tokens * self.square_s)

    def alone_s(self, tokens: int) -> float:
        """A batch of one row."""
        return self.fixed_s + self.row_s(tokens)

    def batch_s(self, lengths: Iterable[int]) -> float:
        """A batch of rows of these lengths, in tokens."""
        return self.fixed_s + sum(map(self.row_s, lengths))


FREE = Price()


def square_per_token(facts: Mapping[str, object]) -> float:
    """`c / b` of an encoder, by the operations that a worker tells; 0 where it tells none."""
    token, square = facts.get("operationsPerToken"), facts.get("operationsPerTokenSquared")
    if not isinstance(token, int | float) or not isinstance(square, int | float) or token <= 0:
        return 0.0
    return ATTENTION_SLOWNESS * max(0.0, square) / token


class Cost:
    """Least squares of seconds on work at a speed of its own, nothing below zero.

    Args:
        square_per_token: `c / b`: how many tokens' work one more squared token of attention is.
        trials: batches of different sizes, as lengths of rows, and what they took on a machine that
            did nothing else.
    """

    def __init__(
        self,
        square_per_token: float = 0.0,
        trials: Sequence[tuple[Sequence[int], float]] = (),
    ) -> None:
        self._ratio = square_per_token
        self._shape = _Line()
        self._measured_s = 0.0
        self._expected_s = 0.0
        self._fixed_work: float | None = None  # `a / b`, as trials say
        self.price = FREE
        for lengths, seconds in trials:
            self.learn(lengths, seconds)
        if len({sum(lengths) for lengths, _ in trials}) > 1:
            fixed, slope = self._shape.fit(FIXED_PRIOR, 0.0)
            self._fixed_work = fixed / slope if slope > 0 else None

    def learn(self, lengths: Iterable[int], seconds: float) -> None:
        """One batch of rows of these lengths took so long."""
        work = sum(n * (1.0 + self._ratio * n) for n in lengths)
        if work <= 0 or not 0 < seconds < math.inf:
            return
        if self.price is not FREE:
            usual_s = self.price.fixed_s + work * self.price.token_s
            seconds = min(max(seconds, usual_s / OUTLIER), usual_s * OUTLIER)
        self._shape.add(work, seconds / self._speed)
        fixed, slope = self._fit()
        self._measured_s = SPEED_DECAY * self._measured_s + seconds
        self._expected_s = SPEED_DECAY * self._expected_s + fixed + slope * work
        fixed, slope = fixed * self._speed, slope * self._speed
        self.price = Price(fixed_s=fixed, token_s=slope, square_s=slope * self._ratio)

    @property
    def _speed(self) -> float:
        """Seconds that pass now where one was expected."""
        return self._measured_s / self._expected_s if self._expected_s > 0 else 1.0

    def _fit(self) -> tuple[float, float]:
        if self._fixed_work is not None:
            share = self._fixed_work / (self._fixed_work + self._shape.mean_work)
            return self._shape.fit(share, PRIOR_SPREAD)
        fading = PRIOR_BATCHES / (PRIOR_BATCHES + self._shape.weight)
        return self._shape.fit(FIXED_PRIOR, PRIOR_SPREAD * fading)


class _Line:
    """Exponentially weighted sums of points (work, seconds), and the line through them."""

    def __init__(self) -> None:
        self.weight = 0.0
        self._work = 0.0
        self._seconds = 0.0
        self._squared = 0.0
        self._product = 0.0

    def add(self, work: float, seconds: float) -> None:
        """One more point."""
        self.weight = SHAPE_DECAY * self.weight + 1
        self._work = SHAPE_DECAY * self._work + work
        self._seconds = SHAPE_DECAY * self._seconds + seconds
        self._squared = SHAPE_DECAY * self._squared + work * work
        self._product = SHAPE_DECAY * self._product + work * seconds

    @property
    def mean_work(self) -> float:
        """Of the points, recent ones counting more."""
        return self._work / self.weight

    def fit(self, fixed_prior: float, prior_spread: float) -> tuple[float, float]:
        """Intercept and slope, drawn to where the intercept is that share of the seconds."""
        mean_work, mean_s = self.mean_work, self._seconds / self.weight
        steepest = mean_s / mean_work
        prior = max(prior_spread, LEAST_SPREAD) * mean_work**2
        variance = max(0.0, self._squared / self.weight - mean_work**2)
        covariance = self._product / self.weight - mean_work * mean_s
        slope = (covariance + prior * (1 - fixed_prior) * steepest) / (variance + prior)
        slope = min(max(slope, 0.0), steepest)
        return mean_s - slope * mean_work, slope
