"""How often each caller may have something costly done: a token bucket for every caller.

Pure but for its own table: the time comes in with every question.
"""

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many at once, refilled at so many a second; `callers_max` are told apart."""

    per_s: float
    burst: float
    callers_max: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """The tokens that a caller had at a time."""

    tokens: float
    at_s: float


def refilled(bucket: Bucket, rate: Rate, now_s: float) -> Bucket:
    """The bucket now: it never holds more than the burst, and a clock never empties it."""
    waited_s = max(0.0, now_s - bucket.at_s)
    return Bucket(min(rate.burst, bucket.tokens + waited_s * rate.per_s), now_s)


class Rates:
    """The buckets of the callers that were seen last; a caller that was forgotten has a full one.

    Args:
        rate: the bound of every caller.
    """

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, caller: str, now_s: float) -> float:
        """Takes one token: 0.0, or the seconds until there is one, and then nothing was taken."""
        rate = self._rate
        bucket = refilled(self._buckets.get(caller, Bucket(rate.burst, now_s)), rate, now_s)
        wait_s = max(0.0, (1.0 - bucket.tokens) / rate.per_s)
        self._buckets[caller] = Bucket(bucket.tokens - 1.0, now_s) if wait_s == 0.0 else bucket
        self._buckets.move_to_end(caller)
        if len(self._buckets) > rate.callers_max:
            self._buckets.popitem(last=False)
        return wait_s
