"""The batching policy: earliest deadline first inside a token budget, as pure functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bertd import errors

# How many waiting rows are looked at for one that fills a gap in the token budget.
MAX_LOOKAHEAD_ROWS = 256


@dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """One sequence that waits to run.

    `sequence` is unique and grows with arrival: it breaks ties and makes equal deadlines first
    come, first served. `isolate` marks a row that may have killed a worker: it runs alone.
    """

    tokens: int
    deadline_s: float
    arrival_s: float
    sequence: int
    isolate: bool = False
    cancelled: bool = False
    payload: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one batch may hold, and how long a row may wait for company while a lane is idle.

    Raises:
        errors.Bug: A limit is not positive; manifests with such limits are refused long before.
    """

    max_tokens: int
    max_rows: int
    max_delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.max_rows < 1 or not 0 <= self.max_delay_s < math.inf:
            raise errors.Bug(f"batching limits must be positive: {self}. This is a bug.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What `take` decided: rows to run now, rows whose deadline passed, rows that wait on."""

    batch: list[Row]
    expired: list[Row]
    rest: list[Row]


def order(row: Row) -> tuple[float, int]:
    """The order of the queue: earliest deadline first, then first come."""
    return row.deadline_s, row.sequence


def take(rows: Sequence[Row], limits: Limits, now_s: float) -> Taken:
    """Splits waiting rows into one batch, the expired, and the rest.

    The live row with the earliest deadline always runs, so that no length starves; a row longer
    than the whole budget runs alone. Later rows fill what is left of the budget, in order, passing
    over rows that do not fit. Cancelled rows appear nowhere in the result.

    Args:
        rows: Waiting rows sorted by `order`.
        limits: Bounds of the batch.
        now_s: The time; a deadline at or before it has passed.
    """
    expired: list[Row] = []
    live: list[Row] = []
    for row in rows:
        if not row.cancelled:
            (expired if row.deadline_s <= now_s else live).append(row)
    if not live:
        return Taken(batch=[], expired=expired, rest=[])
    if live[0].isolate:
        return Taken(batch=live[:1], expired=expired, rest=live[1:])
    batch, passed, looked_at = _fill(live, limits)
    return Taken(batch=batch, expired=expired, rest=passed + live[looked_at:])


def ready_at(rows: Sequence[Row], limits: Limits) -> float:
    """The time from which an idle lane may start a batch of these rows.

    A time in the past means at once: no waiting is wanted, a limit is already reached, or a row
    must run alone. Else rows wait for company, each at most `max_delay_s` and never longer than
    half of the time that it has. Without rows: never (infinity).
    """
    if not rows:
        return math.inf
    full = len(rows) >= limits.max_rows or sum(row.tokens for row in rows) >= limits.max_tokens
    if full or limits.max_delay_s == 0 or rows[0].isolate:
        return -math.inf
    return min(
        row.arrival_s + min(limits.max_delay_s, (row.deadline_s - row.arrival_s) / 2)
        for row in rows
    )


def _fill(live: Sequence[Row], limits: Limits) -> tuple[list[Row], list[Row], int]:
    batch = [live[0]]
    passed: list[Row] = []
    free_tokens = limits.max_tokens - live[0].tokens
    looked_at = 1
    for row in live[1:]:
        if free_tokens <= 0 or len(batch) == limits.max_rows or len(passed) == MAX_LOOKAHEAD_ROWS:
            break
        looked_at += 1
        if row.isolate or row.tokens > free_tokens:
            passed.append(row)
        else:
            batch.append(row)
            free_tokens -= row.tokens
    return batch, passed, looked_at
