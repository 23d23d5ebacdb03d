"""What became of calls, in bounded memory: counts, latencies, and their summary. Pure."""

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

# Buckets grow by 1 %, so a value is known to half of that: 1 us to 10,000 s in 2,315 of them.
LEAST_S = 1e-6
MOST_S = 1e4
GROWTH = 1.01
_LOG_GROWTH = math.log(GROWTH)
BUCKETS = math.ceil(math.log(MOST_S / LEAST_S) / _LOG_GROWTH) + 1
MAX_REVISIONS = 16
MAX_PROBLEMS = 8
OTHER_PROBLEMS = "others"

Percentiles = dict[str, float | None]


class Outcome(enum.Enum):
    """How a call ended; every call ends in exactly one way."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"  # UNAVAILABLE, and the daemon said when to ask again
    EXPIRED = "expired"  # DEADLINE_EXCEEDED


class Histogram:
    """Times by logarithmic buckets (as HDR Histogram's): percentiles within 0.5 %."""

    def __init__(self) -> None:
        self.count = 0
        self.total_s = 0.0
        self.least_s = math.inf
        self.most_s = 0.0
        self._buckets = [0] * BUCKETS

    def record(self, value_s: float) -> None:
        """Counts one time; a negative one counts as none."""
        value_s = max(value_s, 0.0)
        self.count += 1
        self.total_s += value_s
        self.least_s = min(self.least_s, value_s)
        self.most_s = max(self.most_s, value_s)
        self._buckets[_bucket(value_s)] += 1

    def merge(self, other: "Histogram") -> None:
        """Adds everything that another one counted."""
        self.count += other.count
        self.total_s += other.total_s
        self.least_s = min(self.least_s, other.least_s)
        self.most_s = max(self.most_s, other.most_s)
        self._buckets = [a + b for a, b in zip(self._buckets, other._buckets, strict=True)]

    def percentile(self, per_mille: int) -> float | None:
        """The least value that at least so many in a thousand do not exceed; None without any."""
        if not self.count:
            return None
        rank = max(1, -(-self.count * per_mille // 1000))
        if rank == self.count:
            return self.most_s
        return next(value_s for value_s, seen in self._values() if seen >= rank)

    @property
    def mean_s(self) -> float | None:
        """The mean, exactly; None without any value."""
        return self.total_s / self.count if self.count else None

    def distribution(self) -> tuple[list[float], list[float]]:
        """The values there are and the share of all that does not exceed each, for a plot."""
        values = list(self._values())
        return [value_s for value_s, _ in values], [seen / self.count for _, seen in values]

    def _values(self) -> Iterator[tuple[float, int]]:
        """Every bucket that holds something: its value, and how many lie in it or below."""
        seen = 0
        for at, count in enumerate(self._buckets):
            if count:
                seen += count
                yield min(max(_middle(at), self.least_s), self.most_s), seen


@dataclass(slots=True, eq=False, kw_only=True)
class Tally:
    """What became of the calls of one measured span, and what was answered within it.

    `sent` and the four outcomes count calls that were due in the span, whenever they ended.
    `answered`, `good` and `tokens` count what ended in it, whenever it was due: at most what the
    daemon can do, also where answers of an overload come after the span.
    """

    duration_s: float = 0.0
    sent: int = 0
    ok: int = 0
    failed: int = 0
    refused: int = 0
    expired: int = 0
    answered: int = 0
    good: int = 0  # within their deadline
    tokens: int = 0
    told: int = 0  # answers that said where their time went
    tokenize_s: float = 0.0
    queue_s: float = 0.0
    inference_s: float = 0.0
    latency: Histogram = field(default_factory=Histogram)  # of answers, from when they were due
    refusal: Histogram = field(default_factory=Histogram)
    lag: Histogram = field(default_factory=Histogram)  # how late the generator sent
    revisions: set[str] = field(default_factory=set)
    problems: dict[str, int] = field(default_factory=dict)

    def end(self, outcome: Outcome, latency_s: float, problem: str = "") -> None:
        """Counts how a call ended that was due in the span."""
        if outcome is Outcome.OK:
            self.ok += 1
            self.latency.record(latency_s)
        elif outcome is Outcome.REFUSED:
            self.refused += 1
            self.refusal.record(latency_s)
        elif outcome is Outcome.EXPIRED:
            self.expired += 1
        else:
            self.failed += 1
            self._problem(problem, 1)

    def merge(self, other: "Tally") -> None:
        """Adds another generator's counts of the same span."""
        self.duration_s = max(self.duration_s, other.duration_s)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for mine, theirs in (
            (self.latency, other.latency),
            (self.refusal, other.refusal),
            (self.lag, other.lag),
        ):
            mine.merge(theirs)
        for revision in other.revisions:
            self.saw(revision)
        for problem, count in other.problems.items():
            self._problem(problem, count)

    def saw(self, revision: str) -> None:
        """Remembers a revision that answered."""
        if len(self.revisions) < MAX_REVISIONS:
            self.revisions.add(revision)

    def _problem(self, problem: str, count: int) -> None:
        known = problem in self.problems or len(self.problems) < MAX_PROBLEMS
        name = problem if known else OTHER_PROBLEMS
        self.problems[name] = self.problems.get(name, 0) + count


_COUNTS = (
    *("sent", "ok", "failed", "refused", "expired", "answered", "good", "tokens", "told"),
    *("tokenize_s", "queue_s", "inference_s"),
)


def summary(tally: Tally) -> dict[str, object]:
    """The counts, rates and times of a tally as JSON values; None for what nothing is known of.

    Rates count what ended in the span. Times are milliseconds; `server_ms` are means of what the
    replies say; `lag_ms` is what 99 % of the calls were at most sent late by.
    """
    latency, seconds = tally.latency, tally.duration_s
    parts = {"tokenize": tally.tokenize_s, "queue": tally.queue_s, "inference": tally.inference_s}
    return {
        "ok": tally.ok,
        "failed": tally.failed,
        "refused": tally.refused,
        "expired": tally.expired,
        "sent": tally.sent,
        "rps": _rate(tally.answered, seconds),
        "goodput_rps": _rate(tally.good, seconds),
        "duration_s": round(seconds, 3),
        "latency_ms": percentiles(latency, p50=500, p90=900, p99=990, p999=999)
        | {"mean": ms(latency.mean_s), "max": ms(latency.most_s if latency.count else None)},
        "refusal_ms": percentiles(tally.refusal, p50=500, p99=990),
        "server_ms": {
            name: ms(spent_s / tally.told if tally.told else None)
            for name, spent_s in parts.items()
        },
        "tokens_per_s": _rate(tally.tokens, seconds),
        "lag_ms": ms(tally.lag.percentile(990)),
    }


def percentiles(times: Histogram, **per_mille: int) -> Percentiles:
    """Percentiles by name, in milliseconds."""
    return {name: ms(times.percentile(rank)) for name, rank in per_mille.items()}


def ms(value_s: float | None) -> float | None:
    """Milliseconds, to the microsecond."""
    return None if value_s is None else round(value_s * 1000, 3)


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 3) if seconds > 0 else 0.0


def _bucket(value_s: float) -> int:
    if value_s <= LEAST_S:
        return 0
    return min(int(math.log(value_s / LEAST_S) / _LOG_GROWTH) + 1, BUCKETS - 1)


def _middle(bucket: int) -> float:
    return LEAST_S * GROWTH ** (bucket - 0.5) if bucket else LEAST_S
