"""What a batch costs, measured while it serves: seconds = a + b * tokens.

A batch has a fixed cost (launches, Python, the sockets) beside what its tokens cost, so dividing
seconds by tokens would make every backlog of short texts look hopeless.
"""

DECAY = 0.95  # weight of a batch against the one after it
# Below this spread of batch sizes (variance over squared mean) a slope cannot be told from noise.
LEAST_SPREAD = 0.01


class Cost:
    """Exponentially weighted least squares of seconds on tokens, neither part below zero."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._tokens = 0.0
        self._seconds = 0.0
        self._tokens_squared = 0.0
        self._product = 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """One batch ran."""
        self._weight = DECAY * self._weight + 1
        self._tokens = DECAY * self._tokens + tokens
        self._seconds = DECAY * self._seconds + seconds
        self._tokens_squared = DECAY * self._tokens_squared + tokens * tokens
        self._product = DECAY * self._product + tokens * seconds

    def seconds(self, tokens: int, batches: int = 1) -> float:
        """Predicted seconds of so many tokens in so many batches; 0 before the first batch."""
        fixed, slope = self._fit()
        return batches * fixed + tokens * slope

    def _fit(self) -> tuple[float, float]:
        if not self._weight:
            return 0.0, 0.0
        mean_tokens, mean_seconds = self._tokens / self._weight, self._seconds / self._weight
        variance = self._tokens_squared / self._weight - mean_tokens**2
        if variance < LEAST_SPREAD * mean_tokens**2:
            return mean_seconds, 0.0
        slope = (self._product / self._weight - mean_tokens * mean_seconds) / variance
        slope = min(max(slope, 0.0), mean_seconds / mean_tokens)
        return mean_seconds - slope * mean_tokens, slope
